"""metrics.jsonl and the events beside it."""

import errno
import os
import struct

import pytest
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event

from rsclip_jax import atomic
from rsclip_jax.training import metrics
from rsclip_jax.training.metrics import MetricWriter, read_metrics, read_scores


def events(workdir):
    """Return the events of a file, whose records have their length before and checks around."""
    (path,) = (workdir / "tensorboard").iterdir()
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("Q", content[:8])
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    return found


def test_a_row_is_a_line_and_events_that_hide_those_of_a_stopped_run(tmp_path):
    writer = MetricWriter(tmp_path, 3)
    writer.write(4, {"training_loss": 0.5, "val/i2t_R@1": float("nan")})
    first, start, *scalars = events(tmp_path)  # they are on the disk at once
    assert first.file_version and (start.step, start.session_log.status) == (4, 1)
    assert [(e.step, e.summary.value[0].tag) for e in scalars] == [
        (4, "training_loss"),
        (4, "val/i2t_R_1"),
    ]
    assert scalars[0].summary.value[0].simple_value == 0.5
    writer.close()
    assert read_metrics(tmp_path) == [{"step": 4, "training_loss": 0.5, "val/i2t_R@1": None}]


def test_scores_are_those_of_evaluators_by_step(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(2, {"training_loss": 1.0})
    writer.write(2, {"val/top1": 3.0})
    writer.write(2, {"val_raw/top1": float("inf")})
    writer.close()
    assert read_scores(tmp_path) == {2: {"val/top1": 3.0, "val_raw/top1": None}}


def test_a_full_disk_ends_a_row_with_one_line(tmp_path, monkeypatch):
    class Full(EventsWriter):
        def flush(self):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(metrics, "EventsWriter", Full)
    writer = MetricWriter(tmp_path, 0)
    with pytest.raises(atomic.DiskFullError, match=r"metrics\.jsonl could not be written"):
        writer.write(1, {"training_loss": 1.0})
