"""What a prepared data set holds, in numbers: gathered record by record, in bounded memory."""

import collections
from collections.abc import Iterator
from typing import Any

from rsclip_jax.data.captions import LABEL_SENTENCE
from rsclip_jax.data.ingest import Outcome
from rsclip_jax.data.seen import SeenKeys
from rsclip_jax.data.splits import is_split

CONTEXT_LENGTHS = (77, 248)  # CLIP's and Long-CLIP's
KINDS = {"captions": "short", "long_captions": "long", "ir_captions": "infrared"}
DUPLICATE = "duplicate id"  # begins reasons to skip
MAX_CLASSES = 100_000  # told apart
SHOWN_CLASSES = 10  # on the terminal
_DIRECTIONS = "name a direction, such as left (for their flips: config.input.augment_text)"


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
        # (what records call their split, "" if they do not, where they are)
        self.split_names: collections.Counter[tuple[str, str]] = collections.Counter()
        self.drawn: collections.Counter[tuple[str, str]] = collections.Counter()
        # (split of a record, split of an earlier one with another id and the same image)
        self.same_images: collections.Counter[tuple[str, str]] = collections.Counter()
        self.skipped: collections.Counter[str] = collections.Counter()
        self.first_skipped: dict[str, str] = {}
        self.odd: collections.Counter[str] = collections.Counter()  # images, by what is odd
        self.mended: collections.Counter[str] = collections.Counter()  # texts, by what was mended
        self.classes: collections.Counter[str] = collections.Counter()
        self.other_classes = 0  # records of classes beyond MAX_CLASSES
        self.with_ir = 0
        self.name_direction = 0  # records with a text that does
        self.label_sentences = 0  # records with a label and without captions
        self.without_text = 0  # records without captions and label
        self.image_bytes = 0
        self.widths = Distribution()
        self.heights = Distribution()
        self.texts_per_image = {field: Distribution() for field in KINDS}
        self.tokens = {field: Distribution() for field in KINDS}
        self.distinct = {field: SeenKeys() for field in KINDS}

    def add(self, outcome: Outcome) -> None:
        """Count one sample, kept or skipped (then by what its reason says before the colon)."""
        if outcome.reason:
            kind = outcome.reason.split(":")[0]
            self.skipped[kind] += 1
            self.first_skipped.setdefault(kind, outcome.reason)
            return
        self.records[outcome.split] += 1
        self.split_names[outcome.given_split, outcome.drawn_from or outcome.split] += 1
        if outcome.drawn_from:
            self.drawn[outcome.drawn_from, outcome.split] += 1
        if outcome.same_image_in is not None:
            self.same_images[outcome.split, outcome.same_image_in] += 1
        self.odd.update(outcome.remarks)
        self.mended.update(outcome.mended)
        if outcome.label:
            self._count_class(outcome.label, 1)
        self.with_ir += outcome.has_ir
        self.name_direction += outcome.names_direction
        captioned = bool(outcome.lengths["captions"])
        self.label_sentences += bool(outcome.label) and not captioned
        self.without_text += not outcome.label and not captioned
        self.image_bytes += outcome.image_bytes
        height, width = outcome.size
        self.heights.add(height)
        self.widths.add(width)
        for field, lengths in outcome.lengths.items():
            self.texts_per_image[field].add(len(lengths))
            for length in lengths:
                self.tokens[field].add(length)
            for key in outcome.keys[field]:
                self.distinct[field].add(key)

    def _count_class(self, label: str, count: int) -> None:
        if label in self.classes or len(self.classes) < MAX_CLASSES:
            self.classes[label] += count
        else:
            self.other_classes += count

    def update(self, other: "Summary") -> None:
        """Count what another summary has counted too."""
        self.records.update(other.records)
        self.split_names.update(other.split_names)
        self.drawn.update(other.drawn)
        self.skipped.update(other.skipped)
        self.first_skipped = other.first_skipped | self.first_skipped
        self.same_images.update(other.same_images)
        self.odd.update(other.odd)
        self.mended.update(other.mended)
        for label, count in other.classes.items():
            self._count_class(label, count)
        self.other_classes += other.other_classes
        self.with_ir += other.with_ir
        self.name_direction += other.name_direction
        self.label_sentences += other.label_sentences
        self.without_text += other.without_text
        self.image_bytes += other.image_bytes
        self.widths.update(other.widths)
        self.heights.update(other.heights)
        for field in KINDS:
            self.texts_per_image[field].update(other.texts_per_image[field])
            self.tokens[field].update(other.tokens[field])
            self.distinct[field].update(other.distinct[field])

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

    def skipped_kinds(self, most: int) -> Iterator[tuple[int, str]]:
        """Yield how many samples were skipped for each reason, with an example cut to `most`."""
        for kind, count in self.skipped.most_common():
            example = self.first_skipped[kind].removeprefix(kind).removeprefix(": ")
            yield count, kind + (f", such as {example:.{most}}" if example else "")

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers for summary.json; kinds of text that do not occur are left out."""
        return {
            "name": self.name,
            "records": dict(sorted(self.records.items())),
            **({"split_names": renamed} if (renamed := self._renamed()) else {}),
            "skipped": dict(sorted(self.skipped.items())),
            **({"same_images": self._same_images()} if self.same_images else {}),
            **({"odd_images": dict(sorted(self.odd.items()))} if self.odd else {}),
            **({"mended_texts": dict(sorted(self.mended.items()))} if self.mended else {}),
            "with_infrared": self._share(self.with_ir),
            "name_direction": self._share(self.name_direction),
            "label_sentences": self._share(self.label_sentences),
            "without_captions_and_label": self._share(self.without_text),
            "classes": dict(sorted(self.classes.items(), key=lambda item: (-item[1], item[0]))),
            **({"other_classes": self.other_classes} if self.other_classes else {}),
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
                    "distinct": len(self.distinct[field]),
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

    def _share(self, count: int) -> dict[str, float]:
        return {"records": count, "share": count / max(1, self.records.total())}

    def _renamed(self) -> dict[str, dict[str, Any]]:
        return {
            given: {"split": split, "records": count}
            for (given, split), count in sorted(self.split_names.items())
            if given not in ("", split)
        }

    def _same_images(self) -> dict[str, int]:
        return {
            f"of {split} that {'it has' if first == split else f'{first} has'} already": count
            for (split, first), count in sorted(self.same_images.items())
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
        lines += self._split_lines()
        lines += self._shares()
        lines += self._class_lines(numbers["classes"])
        lines += ["", f"{'image size':<16} {'min':>8} {'median':>8} {'max':>8}"]
        for side in ("width", "height"):
            low, median, high = numbers[f"image_{side}"].values()
            lines += [f"  {side:<14} {low:>8,} {median:>8,} {high:>8,}  px"]
        if self._kinds():
            above = "".join(f"{f'> {limit}':>9}" for limit in CONTEXT_LENGTHS)
            lines += ["", f"{'':39}{'per image':^21} {'CLIP tokens':^39}"]
            lines += [
                f"{'captions':<16}{'texts':>11}{'distinct':>11} {'min':>6} {'mean':>6} {'max':>6}"
                f" {'mean':>8}{'p95':>6}{'max':>7}{above}"
            ]
        for field in self._kinds():
            per, tokens = numbers["texts_per_image"][field], numbers["clip_tokens"][field]
            shares = "".join(f"{tokens[f'share_above_{limit}']:9.1%}" for limit in CONTEXT_LENGTHS)
            lines += [
                f"  {KINDS[field]:<14}{tokens['texts']:>11,}{tokens['distinct']:>11,}"
                f" {per['min']:>6} {per['mean']:>6.1f} {per['max']:>6}"
                f" {tokens['mean']:>8.1f}{tokens['p95']:>6}{tokens['max']:>7}{shares}"
            ]
        if self.mended:
            lines += ["", "texts that were mended"]
            lines += [f"  {count:>8,}  {what}" for what, count in self.mended.most_common()]
        if self.same_images:
            lines += ["", "images that were kept though an earlier one of another id is the same"]
            lines += [f"  {count:>8,}  {what}" for what, count in self._same_images().items()]
        if self.odd:
            lines += ["", "images to look at: they were kept"]
            lines += [f"  {count:>8,}  {what}" for what, count in self.odd.most_common()]
        if self.skipped:
            lines += ["", "skipped"]
            lines += [f"  {count:>8,}  {what}" for count, what in self.skipped_kinds(120)]
            if any(reason.startswith(DUPLICATE) for reason in self.skipped):
                lines.append("  of one id the first stays, in tables a held-out one (--id_column)")
        return "\n".join(line.rstrip() for line in lines)

    def _split_lines(self) -> list[str]:
        """Tell which records are not in a split that they name by its usual name."""
        lines = [
            f"  {count:>8,}  of {old} are drawn into {new} (--hold_out)"
            for (old, new), count in sorted(self.drawn.items())
        ]
        if all(not given for given, _ in self.split_names):
            return lines
        for (given, split), count in sorted(self.split_names.items()):
            if not given:
                lines.append(f"  {count:>8,}  that name no split are in {split} (--split decides)")
            elif given != split or not is_split(split):
                what = "are in" if given != split else "are in a split of their own,"
                lines.append(
                    f"  {count:>8,}  of split {given!r} {what} {split} "
                    f"(--split_names={given}=NAME decides)"
                )
        return lines

    def _shares(self) -> list[str]:
        """Tell how many records have an infrared image, and where their text comes from."""
        sentence = LABEL_SENTENCE.format("LABEL")
        lines = []
        for count, always, what in (
            (self.with_ir, True, "have an infrared image"),
            (self.label_sentences, False, f'have no caption: their text will be "{sentence}"'),
            (self.without_text, False, "have neither caption nor label: no text to train on"),
            (self.name_direction, False, _DIRECTIONS),
        ):
            if count or always:
                lines.append(f"  {count:>8,}  ({count / self.records.total():.1%}) {what}")
        return lines

    def _class_lines(self, classes: dict[str, int]) -> list[str]:
        """List the most frequent classes."""
        if not classes:
            return []
        lines = ["", f"classes ({len(classes):,})"]
        shown = list(classes.items())[:SHOWN_CLASSES]
        lines += [f"  {_printable(label):<30} {count:>12,}" for label, count in shown]
        if hidden := list(classes.values())[SHOWN_CLASSES:]:
            sizes = dict.fromkeys([f"{hidden[0]:,}", f"{hidden[-1]:,}"])  # one, if they are equal
            rest = f"{len(hidden):,} more, of {' to '.join(sizes)} records each"
            lines.append(f"  {rest}: all are in summary.json")
        if self.other_classes:
            lines.append(f"  {self.other_classes:,} records are of classes beyond {MAX_CLASSES:,}")
        if unlabelled := self.records.total() - sum(classes.values()) - self.other_classes:
            lines.append(f"  {unlabelled:,} records have no class")
        return lines


def _printable(label: str) -> str:
    """Return a label on one line, cut where it is long."""
    line = "".join(c if c.isprintable() else "?" for c in label)
    return line if len(line) <= 60 else f"{line[:57]}..."


def _range(values: Distribution) -> dict[str, int]:
    return {"min": values.quantile(0), "median": values.quantile(0.5), "max": values.quantile(1)}
