"""What a run suffers from is told before its first step."""

import pytest
import sentencepiece
from small_run import small_config

from rsclip_jax.data.records import BadRecordError
from rsclip_jax.training import loop
from rsclip_jax.training.traps import traps
from rsclip_jax.training.workdir import save_config


def records(n, **fields):
    caption = "a harbour with many ships and a long pier beside two round storage tanks"
    none = {"long_captions": [], "ir_captions": [], "label": "", "ir": b""}
    return [{"captions": [caption], **none, **fields}] * n


def told(config, n=96, steps=6, **fields):
    return "\n".join(traps(config, {"scenes": records(n, **fields)}, steps))


@pytest.fixture
def config(scenes):
    made = small_config(scenes, lr=1e-3, input__lengths={"text": 64, "text_long": 64})
    made.task = "clip"
    return made


def test_a_sound_run_is_told_nothing(config):
    assert told(config) == ""


def test_each_trap_is_named_with_its_field(config):
    assert "config.warmup_steps=2 of 2 steps" in told(config, steps=2)
    assert "config.input.batch_size=16 of 5 records" in told(config, n=5)
    assert "5 of 5 sampled records have no caption" in told(
        config, n=5, captions=[], label="harbour"
    )
    config.wd = 5.0
    assert "config.wd=5.0 is unusual: expected a number up to 1" in told(config)
    config.lr = 1e-6
    assert "config.init_from is empty" in told(config)
    config.input.lengths.text = 4
    assert "config.input.lengths.text=4 tokens cut 48 of 48 sampled texts" in told(config)
    assert "48 of 48 sampled records have an infrared image, which training" in told(
        config, ir=b"x"
    )
    config.loss_pairs = (("img", "ir", 1.0),)
    assert "compares infrared images, but none" in told(config)


def test_directions_under_flips_are_told_with_their_share(config):
    named = {"scenes": records(24) + records(72, long_captions=["a pier in the upper left"])}
    assert list(traps(config, named, 6)) == []
    config.input.flip = True
    (line,) = traps(config, named, 6)
    assert "36 of 48 sampled records (75%) name a direction" in line
    assert "--config.input.augment_text=turn" in line
    config.input.augment_text = "leave"
    (line,) = traps(config, named, 6)
    assert "these are not flipped or turned" in line
    config.input.augment_text = "turn"
    named["scenes"][:24] = records(24, captions=["a bridge above a river"])
    (line,) = traps(config, named, 6)
    assert "48 of 48" in line and "right angles leave 12 of these as they are" in line


def test_a_small_data_set_of_a_mixture_that_fills_its_share_of_a_batch_is_named(config):
    config.input.data = {"scenes": 3.0, "few": 1.0}
    sources = {"scenes": records(96), "few": records(3)}  # 4 of each batch of 16
    (line,) = traps(config, sources, 6)
    assert "config.input.batch_size=16, 4 by weight of 3 records in 'few'" in line
    assert (
        "--config.input.batch_size to 12 at most" in line
        and "a smaller config.input.data.few" in line
    )
    assert list(traps(config, {**sources, "few": records(4)}, 6)) == []


def test_texts_padded_with_another_id_than_0_are_not_cut(config, tmp_path):
    (tmp_path / "captions.txt").write_text(records(1)[0]["captions"][0] + "\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "captions.txt"), model_prefix=str(tmp_path / "words"),
        vocab_size=40, unk_id=0, bos_id=1, eos_id=2, pad_id=3, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    config.tokenizer = f"sentencepiece:{tmp_path / 'words.model'}"
    config.input.lengths.text = config.input.lengths.text_long = 128
    assert told(config) == ""


def test_another_batch_size_under_epochs_is_refused_with_the_steps_left(scenes, tmp_path):
    old = small_config(scenes, total_steps=0, total_epochs=2.0)
    save_config(tmp_path / "config.json", old)
    (tmp_path / "checkpoints" / "6").mkdir(parents=True)
    loop.check_epochs(tmp_path, old)
    old.total_epochs = 1e12
    with pytest.raises(ValueError, match=r"total_epochs=1e\+12 of 96 records are 6e\+12 steps: "):
        loop.steps_of_epochs(old)
    new = small_config(scenes, total_steps=0, total_epochs=2.0, input__batch_size=32)
    with pytest.raises(ValueError, match=r"batch_size=32.*total_steps=9"):  # 96 records: 3 of 32
        loop.check_epochs(tmp_path, new)
    new.total_steps, new.total_epochs = 9, 0.0
    loop.check_epochs(tmp_path, new)


def test_a_damaged_record_among_those_looked_at_is_passed_over_if_some_may_be(config):
    class Source(list):
        def __getitem__(self, index):
            if index == 4:
                raise BadRecordError("record 4 of scenes/train is damaged")
            return super().__getitem__(index)

    sources = {"scenes": Source(records(96))}
    with pytest.raises(ValueError, match=r"record 4 .*max_bad_records=N"):
        list(traps(config, sources, 6))
    config.input.max_bad_records = 1
    assert list(traps(config, sources, 6)) == []
