"""Descriptors of GPUs, and the names of topologies."""

import re

import pytest

from rsclip_jax import topologies

FIELDS = {
    "core_count": (100, 200),
    "device_memory_size": (39 * 2**30, 141 * 2**30),
    "memory_bandwidth": (8e11, 5e12),
    "l2_cache_size": (4e7, 1.1e8),
    "clock_rate_ghz": (1.4, 2.6),
    "shared_memory_per_core": (1e5, 2.4e5),
    "threads_per_core_limit": (1536, 2048),
}


@pytest.mark.parametrize("card", topologies.CARDS)
def test_descriptors_are_whole_and_in_the_units_of_the_compiler(card):
    text = topologies.CARDS[card].read_text()
    lines = [line.partition("#")[0] for line in text.splitlines()]
    fields = dict(re.findall(r"^ +(\w+): ([\d.]+)$", "\n".join(lines), re.MULTILINE))
    for name, (low, high) in FIELDS.items():
        assert low <= float(fields[name]) <= high, name
    # CUDA keeps 1 KiB of a block's shared memory for itself.
    shared = [int(fields[f"shared_memory_per_{x}"]) for x in ("core", "block_optin")]
    assert shared[0] - shared[1] == 1024
    assert text.count("{") == text.count("}") and 'platform_name: "CUDA"' in text


def test_the_cards_that_are_promised():
    assert set(topologies.CARDS) >= {"h100", "h200", "a100-80", "a100-40", "l40s"}


@pytest.mark.parametrize(
    "shape, machines, each", [("1", 1, 1), ("8", 1, 8), ("16", 2, 8), ("4x2", 4, 2), ("5", 1, 5)]
)
def test_counts_are_machines_of_eight(shape, machines, each):
    assert topologies.node_shape(f"h100:{shape}", shape) == (machines, each)


@pytest.mark.parametrize("shape", ["", "0", "12", "x8", "2x", "2x0", "eight"])
def test_other_counts_are_refused(shape):
    with pytest.raises(ValueError, match=rf"--topology=h100:{shape}: .*multiple of 8"):
        topologies.node_shape(f"h100:{shape}", shape)
