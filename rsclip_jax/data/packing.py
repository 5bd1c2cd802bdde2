"""Several texts in one row of tokens: which text stands where.

A text tower that is causal and read at the end-of-text token needs of a text no more than its
tokens up to there. What a short text leaves of its row can hold others, if none sees another.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Packing:
    """Adds to a batch where its texts stand in shared rows.

    Call with the batch of a host; returns it with `starts`, int32 [b, fields]: the slot of the
    first token of each text, slots counted through the rows of its group. Texts share rows with
    those of their group only, so that a device needs no other's.

    Attributes:
      fields: the token ids to pack, int32 [b, length] each; together, in the same rows.
      row_length: tokens in a row, at least the greatest length of the fields.
      eot_id: the end-of-text token; what follows the first of a text is left out.
      devices: of this host; each has its share of the batch, in order.
      parts: every so-manieth sample of a device makes a group (`config.grad_cache_steps`).
    """

    fields: tuple[str, ...]
    row_length: int
    eot_id: int
    devices: int = 1
    parts: int = 1

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the batch with `starts`."""
        ends = [np.argmax(batch[field] == self.eot_id, axis=1) for field in self.fields]
        lengths = np.stack(ends, axis=1) + 1
        starts = np.empty(lengths.shape, np.int32)
        groups = (self.devices, -1, self.parts, len(self.fields))
        lengths_of, starts_of = lengths.reshape(groups), starts.reshape(groups)
        for device, part in np.ndindex(self.devices, self.parts):
            group = lengths_of[device, :, part]
            places = pack(group.ravel().tolist(), self.row_length)
            starts_of[device, :, part] = np.reshape(places, group.shape)
        return {**batch, "starts": starts}


def pack(lengths: Sequence[int], row_length: int) -> list[int]:
    """Place texts in as few rows as best-fit decreasing needs: the slot where each begins.

    The longest come first, each into the row where it leaves the least room.

    Args:
      lengths: tokens of each text, 1 to row_length.
      row_length: slots of a row; slot s belongs to row s // row_length.
    """
    starts = [0] * len(lengths)
    rows = 0
    ends: list[list[int]] = [[] for _ in range(row_length + 1)]  # by room left: where it begins
    rooms = 0  # bit r is set where a row has room for r more tokens
    for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[i]
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1  # the least
            starts[i] = ends[room].pop()
            if not ends[room]:
                rooms ^= 1 << room
        else:
            room = row_length
            starts[i] = rows * row_length
            rows += 1
        ends[room - length].append(starts[i] + length)
        rooms |= 1 << (room - length)
    return starts


def row_count(need: int) -> int:
    """Round a number of rows up to four significant bits: an eighth too many at most.

    So the batches of a run need few different numbers, each of which is a compilation.
    """
    step = 1 << max(need.bit_length() - 4, 0)
    return -(-need // step) * step
