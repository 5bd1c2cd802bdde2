import pytest
from test_clip import CONFIG

from rsclip_jax.models import clip
from rsclip_jax.training.flops import device_peak, forward_flops


@pytest.mark.parametrize(
    ("variant", "lengths", "ir", "gflop"),
    # Forward GFLOP per sample, counted by hand in the project's performance notes.
    [("B/32", [77], False, 14.8), ("B/16", [77], False, 41.1), ("B/16", [248], False, 55.4),
     ("B/16", [77, 248], False, 61.3), ("B/16", [248], True, 90.5), ("L/14", [77], False, 175.3),
     ("L/14", [248, 77], False, 219.7), ("H/14", [77], False, 381.7)],
)  # fmt: skip
def test_forward_flops(variant, lengths, ir, gflop):
    model = clip.build({**CONFIG, "variant": variant, "context_length": 248, "vocab_size": 49408})
    flops = forward_flops(model, {str(n): n for n in lengths}, ir)
    assert flops / 1e9 == pytest.approx(gflop, rel=0.005)


def test_an_unknown_device_is_measured():
    peak, source = device_peak()
    assert peak > 1e8 and "measured" in source
