"""A short run of the campaign (campaign.py): a few damaged inputs for each reader, from a seed."""

import random

import pytest

from fuzz.mutate import mutated
from fuzz.readers import READERS, Finding, Reader, attempt

DAMAGED = 40  # of each reader


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_whole_inputs(name, tmp_path):
    for number, seed in enumerate(READERS[name].seeds()):
        directory = tmp_path / str(number)
        directory.mkdir()
        READERS[name].read(directory, seed)


@pytest.mark.parametrize("name", READERS)
def test_a_reader_tells_what_is_wrong_with_damaged_inputs(name):
    seeds = READERS[name].seeds()
    for number in range(DAMAGED):
        data = mutated(random.Random(f"{name} {number}"), seeds)
        try:
            attempt(READERS[name], data)
        except Finding as finding:
            finding.add_note(f"number {number}: {data[:2000]!r}")
            raise


def test_an_error_that_nobody_has_written_is_a_finding():
    def read(directory, data):
        int(data)

    with pytest.raises(Finding, match="ValueError: invalid literal"):
        attempt(Reader(read, list), b"x")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("csv", b"image,caption\na\0.jpg,one\n"),  # a path with a null byte
        ("csv", b"image,caption\nb\0/c.jpg,one\n"),
        ("record", b"\x0a\xff"),
    ],
)
def test_what_the_campaign_has_found_stays_mended(name, data):
    attempt(READERS[name], data)
