import pytest
from absl import flags
from ml_collections import config_flags

from configs import lrsclip
from rsclip_jax.overrides import ConfigFileParser, check_fields


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [("--config.lr_rate=1", "--config.lr"),
     ("--config.input.batchsize=8", "--config.input.batch_size"),
     ("--config.batch_size=8", "--config.input.batch_size"),
     ("-config.model.varient=tiny", "--config.model.variant")],
)  # fmt: skip
def test_unknown_fields_are_answered_with_the_nearest(argument, nearest):
    with pytest.raises(ValueError, match="no such field") as error:
        check_fields(lrsclip.get_config("demo"), [argument])
    assert nearest in str(error.value).split("nearest are ")[1].split(", ")


def test_right_fields_pass():
    arguments = ["--config=configs/lrsclip.py", "--config.lr=1", "--config.input.data={'a': 1.0}"]
    check_fields(lrsclip.get_config("demo"), [*arguments, "--config.evals.val.split=test"])


@pytest.mark.parametrize(
    ("argument", "meant"),
    [("--config.learning_rate=1", "--config.lr"),
     ("--config.weight_decay=0", "--config.wd"),
     ("--config.max_steps=8", "--config.total_steps"),
     ("--config.epochs=8", "--config.total_epochs"),
     ("--config.pretrained=x", "--config.init_from"),
     ("--config.model.name=tiny", "--config.model.variant")],
)  # fmt: skip
def test_words_of_other_trainers_are_answered_with_ours(argument, meant):
    with pytest.raises(ValueError, match="no such field") as error:
        check_fields(lrsclip.get_config("demo"), [argument])
    assert str(error.value).split("nearest are ")[1].split(", ")[0] == meant


MINE = ["--config.evals.mine.type=zero_shot", "--config.evals.mine.data=mine"]


def test_evaluators_are_added_to_a_config_file_and_have_all_their_fields():
    more = ["--config.evals.scene_types.protocol=plain", "--config.evals.mine.limit=5"]
    argv = ["main", "--config=configs/lrsclip.py:demo", *MINE, *more]
    check_fields(lrsclip.get_config("demo"), argv)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    values["config"].parser = ConfigFileParser(argv)
    values(argv)
    evals = values.config.evals
    assert evals.mine.data == "mine" and evals.mine.limit == 5
    assert evals.mine.protocol == "georsclip" and evals.scene_types.protocol == "plain"
    assert values.config.is_locked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(MINE[1:], "there is no evaluator 'mine', .* A new one has a type, --config.evals.mine.type="),
     (["--config.evals.vall.split=test"], "no evaluator 'vall', .* did you mean 'val'"),
     (["--config.evals.mine.type=zero"], "mine.type='zero': .* did you mean 'zero_shot'"),
     ([*MINE, "--config.evals.mine.protocl=plain"], "nearest are --config.evals.mine.protocol")],
)  # fmt: skip
def test_unknown_evaluators_types_and_fields_are_answered_with_the_nearest(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_fields(lrsclip.get_config("demo"), arguments)
