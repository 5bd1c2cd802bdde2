"""Options of XLA for GPUs: who gets them, who overrides them."""

from types import SimpleNamespace

import jax
import pytest

from rsclip_jax.training import xla_options

GPUS = [SimpleNamespace(platform="gpu")] * 2
OPTION = "xla_gpu_enable_pipelined_all_gather"


@pytest.fixture
def lowered():
    return jax.jit(lambda x: x + 1).lower(1.0)


@pytest.fixture(autouse=True)
def untold():
    xla_options._say.cache_clear()


ALL = xla_options.OPTIONS | xla_options.OPTIONS_OF_SEVERAL


def test_only_gpus_get_options():
    assert xla_options.options_for(GPUS, "") == ALL
    assert xla_options.options_for(GPUS[:1], "") == xla_options.OPTIONS
    assert xla_options.options_for(jax.devices(), "") == {}


def test_a_flag_of_the_user_wins_and_the_others_stay():
    found = xla_options.options_for(GPUS, f"--xla_dump_to=x --{OPTION}=false")
    assert found == {k: v for k, v in ALL.items() if k != OPTION}


def test_xla_knows_the_options_and_they_are_told_once(lowered, capsys):
    for _ in range(2):
        assert xla_options.compile_for(lowered, GPUS)(1.0) == 2
    out = capsys.readouterr().out
    assert out.count("XLA: ") == 1
    assert all(f"{k}={v}" in out for k, v in ALL.items())


def test_an_option_that_xla_does_not_know_is_left_out_and_told(lowered, monkeypatch, capsys):
    monkeypatch.setattr(xla_options, "OPTIONS", {"xla_gpu_of_old": True})
    monkeypatch.setattr(xla_options, "OPTIONS_OF_SEVERAL", {OPTION: True})
    assert xla_options.compile_for(lowered, GPUS)(1.0) == 2
    out = capsys.readouterr().out
    assert "no option xla_gpu_of_old: left out" in out and f"XLA: {OPTION}=True" in out


def test_other_options_are_the_callers_own_mistakes(lowered):
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_nonsense"):
        xla_options.compile_for(lowered, jax.devices(), xla_nonsense=True)
