"""What a prepared data set holds, in numbers: gathered record by record, in bounded memory."""

import collections
from typing import Any

from rsclip_jax.data.ingest import Outcome

CONTEXT_LENGTHS = (77, 248)  # CLIP's and Long-CLIP's
KINDS = {"captions": "short", "long_captions": "long", "ir_captions": "infrared"}


class Distribution:
    """Counts of whole numbers; as large as there are different ones."""

    def __init__(self):
        self._counts: collections.Counter[int] = collections.Counter()

    def add(self, value: int) -> None:
        """Count one value."""
        self._counts[value] += 1

    def update(self, other: "Distribution") -> None:
        """Count all values of another one too."""
        self._counts.update(other._counts)

    def __len__(self) -> int:
        return self._counts.total()

    def count(self, value: int) -> int:
        """Return how often a value came."""
        return self._counts[value]

    def mean(self) -> float:
        """Return the mean of at least one value."""
        return sum(value * count for value, count in self._counts.items()) / len(self)

    def quantile(self, share: float) -> int:
        """Return the smallest value that at least `share` of all do not exceed; 0 is the least."""
        below = 0
        for value, count in sorted(self._counts.items()):
            below += count
            if below >= share * len(self):
                return value
        raise ValueError("a quantile of no values at all")

    def share_above(self, limit: int) -> float:
        """Return the share of values greater than `limit`."""
        return sum(count for value, count in self._counts.items() if value > limit) / len(self)


class Summary:
    """The numbers of one data set.

    Args:
      expected: reasons to skip, up to their colon, that are no fault of the input.
    """

    def __init__(self, name: str, expected: frozenset[str] = frozenset()):
        self.name = name
        self.expected = expected
        self.records: collections.Counter[str] = collections.Counter()
        self.skipped: collections.Counter[str] = collections.Counter()
        self.odd: collections.Counter[str] = collections.Counter()  # images, by what is odd
        self.image_bytes = 0
        self.widths = Distribution()
        self.heights = Distribution()
        self.texts_per_image = {field: Distribution() for field in KINDS}
        self.tokens = {field: Distribution() for field in KINDS}

    def add(self, outcome: Outcome) -> None:
        """Count one sample, kept or skipped (then by what its reason says before the colon)."""
        if outcome.reason:
            self.skipped[outcome.reason.split(":")[0]] += 1
            return
        self.records[outcome.split] += 1
        self.odd.update(outcome.remarks)
        self.image_bytes += outcome.image_bytes
        height, width = outcome.size
        self.heights.add(height)
        self.widths.add(width)
        for field, lengths in outcome.lengths.items():
            self.texts_per_image[field].add(len(lengths))
            for length in lengths:
                self.tokens[field].add(length)

    def update(self, other: "Summary") -> None:
        """Count what another summary has counted too."""
        self.records.update(other.records)
        self.skipped.update(other.skipped)
        self.odd.update(other.odd)
        self.image_bytes += other.image_bytes
        self.widths.update(other.widths)
        self.heights.update(other.heights)
        for field in KINDS:
            self.texts_per_image[field].update(other.texts_per_image[field])
            self.tokens[field].update(other.tokens[field])

    def total(self) -> int:
        """Return the number of samples kept or skipped."""
        return self.records.total() + self.skipped.total()

    def left_out(self) -> int:
        """Return the number of samples skipped for expected reasons."""
        return sum(self.skipped[reason] for reason in self.expected)

    def skipped_share(self) -> float:
        """Return the share of the other samples that were skipped, 0 if there were none at all."""
        wanted = self.total() - self.left_out()
        return (self.skipped.total() - self.left_out()) / max(1, wanted)

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for summary.json; kinds of text that do not occur are left out."""
        return {
            "name": self.name,
            "records": dict(sorted(self.records.items())),
            "skipped": dict(sorted(self.skipped.items())),
            **({"odd_images": dict(sorted(self.odd.items()))} if self.odd else {}),
            "image_bytes": self.image_bytes,
            "image_width": _range(self.widths),
            "image_height": _range(self.heights),
            "texts_per_image": {
                field: {
                    "min": self.texts_per_image[field].quantile(0),
                    "mean": self.texts_per_image[field].mean(),
                    "max": self.texts_per_image[field].quantile(1),
                }
                for field in self._kinds()
            },
            "clip_tokens": {
                field: {
                    "texts": len(self.tokens[field]),
                    "mean": self.tokens[field].mean(),
                    "p95": self.tokens[field].quantile(0.95),
                    "max": self.tokens[field].quantile(1),
                }
                | {
                    f"share_above_{limit}": self.tokens[field].share_above(limit)
                    for limit in CONTEXT_LENGTHS
                }
                for field in self._kinds()
            },
        }

    def _kinds(self) -> list[str]:
        return [field for field in KINDS if len(self.tokens[field])]

    def table(self) -> str:
        """Draw the numbers as text of at most 100 columns."""
        numbers = self.as_dict()
        total = f"{self.records.total():,}"
        lines = ["records"]
        lines += [f"  {split:<14} {count:>12,}" for split, count in numbers["records"].items()]
        lines += [f"  {'total':<14} {total:>12}   {self.image_bytes / 2**20:,.1f} MiB of images"]
        lines += ["", f"{'image size':<16} {'min':>8} {'median':>8} {'max':>8}"]
        for side in ("width", "height"):
            low, median, high = numbers[f"image_{side}"].values()
            lines += [f"  {side:<14} {low:>8,} {median:>8,} {high:>8,}  px"]
        if self._kinds():
            above = "".join(f"{f'> {limit}':>9}" for limit in CONTEXT_LENGTHS)
            lines += ["", f"{'':29}{'per image':^21} {'CLIP tokens':^39}"]
            lines += [
                f"{'captions':<16}{'texts':>12} {'min':>6} {'mean':>6} {'max':>6}"
                f" {'mean':>8}{'p95':>6}{'max':>7}{above}"
            ]
        for field in self._kinds():
            per, tokens = numbers["texts_per_image"][field], numbers["clip_tokens"][field]
            shares = "".join(f"{tokens[f'share_above_{limit}']:9.1%}" for limit in CONTEXT_LENGTHS)
            lines += [
                f"  {KINDS[field]:<14}{tokens['texts']:>12,}"
                f" {per['min']:>6} {per['mean']:>6.1f} {per['max']:>6}"
                f" {tokens['mean']:>8.1f}{tokens['p95']:>6}{tokens['max']:>7}{shares}"
            ]
        if self.odd:
            lines += ["", "images that were kept though odd: look at them"]
            lines += [f"  {count:>8,}  {what}" for what, count in self.odd.most_common()]
        if self.skipped:
            lines += ["", "skipped"]
            lines += [f"  {count:>8,}  {reason}" for reason, count in self.skipped.most_common()]
        return "\n".join(line.rstrip() for line in lines)


def _range(values: Distribution) -> dict[str, int]:
    return {"min": values.quantile(0), "median": values.quantile(0.5), "max": values.quantile(1)}
