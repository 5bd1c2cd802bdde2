"""What config.init_from decides of a config: the architecture, unless the command line does."""

import pytest
from small_run import small_config
from tiny_clip import write_tiny_clip

from configs import georsclip, lrsclip
from rsclip_jax.models import clip
from rsclip_jax.training import initial
from rsclip_jax.training.initial import with_architecture
from rsclip_jax.training.resolve import resolve
from rsclip_jax.training.workdir import save_config

MEAN = (0.5, 0.5, 0.5)


@pytest.fixture
def base(scenes, tmp_path):
    """The config of a run that others start from, as its workdir holds it."""
    config = small_config(scenes, model__activation="gelu", model__layer_norm_eps=1e-6)
    config.model.image_size = 0
    config.model.mean = MEAN
    config.model.variant = "L/14-336"
    save_config(tmp_path / "base" / "config.json", resolve(config, tmp_path))
    return config


@pytest.fixture
def start(tmp_path, capsys):
    """Return what a config becomes that starts from a path, and what is printed of it."""
    (tmp_path / "base").mkdir()

    def start(config, given=(), init_from=tmp_path / "base", workdir=tmp_path / "run"):
        config.init_from = str(init_from)
        found = with_architecture(config, workdir, given)
        return found, capsys.readouterr().out

    return start


def test_sizes_and_what_nobody_has_set_are_taken_and_printed(start, base, tmp_path):
    found, told = start(georsclip.get_config())
    assert clip.sizes_of(found.model) == clip.VARIANTS["L/14-336"]
    model = found.model
    assert (model.image_size, model.activation, model.mean) == (336, "gelu", MEAN)
    assert model.layer_norm_eps == 1e-6 and found.tokenizer == base.tokenizer
    assert model.context_length == 77  # the config's own
    (line,) = told.splitlines()
    assert f"L/14-336 of {tmp_path / 'base'} takes the place of the config's B/32" in line
    for change in ("patch_size 32 -> 14", "image_width 768 -> 1024", "image_size 224 -> 336"):
        assert change in line
    assert "activation quick_gelu -> gelu" in line and "layer_norm_eps 1e-05 -> 1e-06" in line


def test_fields_that_somebody_has_set_are_kept(start, base):
    config = georsclip.get_config("rs5m")
    config.model.image_size, config.model.activation = 224, "quick_gelu"
    config.tokenizer = "sentencepiece:mine.model"
    found, _ = start(config, given=["model.layer_norm_eps"])
    for field in ("image_size", "activation", "mean", "layer_norm_eps"):
        assert found.model[field] == config.model[field], field
    assert found.tokenizer == "sentencepiece:mine.model"
    assert found.model.variant == "L/14-336"


@pytest.mark.parametrize("field", ["model", "model.variant", "model.sizes"])
def test_a_size_on_the_command_line_that_is_not_there_is_refused(field, start, base):
    with pytest.raises(
        ValueError, match=r"is L/14-336, but the command line asks for B/32 \(patch"
    ):
        start(georsclip.get_config(), given=[field])


def test_nothing_is_printed_where_nothing_changes(start, base):
    found, told = start(base.copy_and_resolve_references().unlock())
    assert told == "" and found.model.variant == "L/14-336"


def test_a_resumed_run_takes_its_own_again_wherever_the_base_has_gone(start, base, tmp_path):
    first, _ = start(georsclip.get_config())
    (tmp_path / "run" / "checkpoints" / "2").mkdir(parents=True)
    save_config(tmp_path / "run" / "config.json", first)
    again, told = start(georsclip.get_config(), init_from=tmp_path / "gone")
    assert again.model.to_dict() == first.model.to_dict() and told == ""
    assert again.tokenizer == first.tokenizer
    asked, _ = start(georsclip.get_config(), given=["model.variant"])
    assert asked.model.variant == "B/32"  # which check_workdir refuses


def test_weights_of_others_tell_their_sizes_too(start, tmp_path):
    path = write_tiny_clip(tmp_path / "base.safetensors")
    found, told = start(lrsclip.get_config("B/16"), init_from=path)
    sizes = clip.sizes_of(found.model)
    assert found.model.variant == "custom" and sizes.image_width == 64
    assert found.model.context_length == 248
    assert "image_width 768 -> 64" in told


def test_a_model_of_another_task_is_refused(start, base, tmp_path):
    config = georsclip.get_config()
    config.task = "translation"
    with pytest.raises(ValueError, match="is a CLIP, but the config trains a translator"):
        start(config)


def test_positions_that_are_cut_stretched_or_resampled_are_told(start, base, capsys):
    def told(now, **fields):
        source = base.copy_and_resolve_references().unlock()
        source.model.update(fields)
        initial._tell_positions(now, source, clip.build(now.model))
        return capsys.readouterr().out

    now = resolve(small_config("/", tokenizer="clip", model__image_size=336), "/")
    now.model.variant = "L/14-336"
    assert told(now) == ""
    now.model.context_length = 77
    assert "text positions are cut from 248 to config.model.context_length=77" in told(now)
    assert "--config.model.context_length=248 keeps them" in told(now)
    assert "text positions are stretched from 32 to 77" in told(now, context_length=32)
    assert "resampled from 16x16 to 24x24" in told(now, image_size=224)
