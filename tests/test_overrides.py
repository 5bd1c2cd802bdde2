import pytest

from configs import lrsclip
from rsclip_jax.overrides import check_fields


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
