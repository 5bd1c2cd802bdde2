"""Work on several rows at a time, as models want them."""

from collections.abc import Callable

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from rsclip_jax.build.rows import Row
from rsclip_jax.build.stages import DROPPED, Drop, drop_row

BatchWork = Callable[[list[Row]], list[Row | Drop]]


def each_batch(
    make: Callable[[], BatchWork], wanted: Callable[[Row], bool], size: int
) -> beam.PTransform:
    """Return the transform of rows by a function of several.

    Args:
      make: called in the worker; returns the function, which for each row gives what becomes of it,
        or why it goes. Picklable, as `functools.partial` of a class.
      wanted: other rows stay as they are.
      size: greatest number of rows at a time.
    """
    return beam.ParDo(_EachBatch(make, wanted, size)).with_outputs(DROPPED, main="rows")


def of_sources(sources: list[str], row: Row) -> bool:
    """Tell whether a row is of one of the sources."""
    return row["source"] in sources


class _EachBatch(beam.DoFn):
    def __init__(self, make: Callable[[], BatchWork], wanted: Callable[[Row], bool], size: int):
        self._make, self._wanted, self._size = make, wanted, size

    def setup(self):
        self._work = self._make()

    def start_bundle(self):
        self._held: list[Row] = []

    def process(self, row: Row):
        if not self._wanted(row):
            yield row
            return
        self._held.append(row)
        if len(self._held) == self._size:
            yield from self._flush()

    def finish_bundle(self):
        for result in self._flush():
            tagged = isinstance(result, beam.pvalue.TaggedOutput)
            value = result.value if tagged else result
            value = WindowedValue(value, MIN_TIMESTAMP, [GlobalWindow()])
            yield beam.pvalue.TaggedOutput(DROPPED, value) if tagged else value

    def _flush(self) -> list:
        held, self._held = self._held, []
        results = self._work(held) if held else []
        return [
            drop_row(row, str(result)) if isinstance(result, Drop) else result
            for row, result in zip(held, results, strict=True)
        ]
