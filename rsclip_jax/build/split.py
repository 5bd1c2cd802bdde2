"""Splits without leaks: what is alike goes to one split, whole; sizes are exact.

FusionRS's recipe: rows are alike if their RGB images have perceptual hashes within 4 bits, their
infrared images are equal or within 4 bits, or captions of theirs are equal but for case,
punctuation and white space. It draws all rows anew, for its sizes are exact. RS5M's is plain: 5 %
of each source, of the rows that no official split holds out.
"""

import dataclasses
import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import apache_beam as beam
import numpy as np

from rsclip_jax.build.chance import digest, drawn
from rsclip_jax.build.components import Components
from rsclip_jax.build.hashes import Gathered, HashClusters
from rsclip_jax.build.rows import Row
from rsclip_jax.build.shuffle import CoGroupByKey, GroupByKey

TRAIN = "train"


def normalise_caption(caption: str) -> str:
    """Return what equal captions have in common: NFKC, case folded, no punctuation, single spaces.

    Punctuation is what Unicode calls so (categories P*).
    """
    text = unicodedata.normalize("NFKC", caption).casefold()
    text = "".join(c for c in text if not unicodedata.category(c).startswith("P"))
    return " ".join(text.split())


@dataclasses.dataclass(frozen=True)
class Component:
    """Rows that must not be parted.

    Attributes:
      name: the least id of them.
      rows: source -> number of rows.
      forced: whether it has to be in train.
    """

    name: str
    rows: Mapping[str, int]
    forced: bool = False

    def __len__(self) -> int:
        return sum(self.rows.values())


def assign_splits(
    components: Iterable[Component], sizes: Mapping[str, int], minimum: int = 0
) -> dict[str, str]:
    """Draw held-out splits of exact sizes from whole components; the rest is train.

    For each held-out split in turn, in the order of the components' SHA-256: first at least
    `minimum` rows of each source (fewer, if the source has no more), then the first components with
    which the size can be reached exactly (subset sums).

    Args:
      sizes: held-out split -> number of its rows.
      minimum: of each source in each held-out split.

    Returns:
      Component's name -> split.

    Raises:
      ValueError: a size cannot be reached; the message names the nearest that can.
    """
    left = sorted((c for c in components), key=lambda c: digest(c.name))
    splits = {component.name: TRAIN for component in left}
    left = [component for component in left if not component.forced]
    for split, size in sizes.items():
        taken = _minimum_of_each(left, size, minimum)
        room = size - sum(len(left[number]) for number in taken)
        others = [number for number in range(len(left)) if number not in taken]
        try:
            chosen = subset_of_sum([len(left[number]) for number in others], room)
        except ValueError as error:
            raise ValueError(
                f"split {split!r} of {size:,} rows cannot be made of whole components: {error}"
            ) from error
        taken |= {others[number] for number in chosen}
        for number in taken:
            splits[left[number].name] = split
        left = [component for number, component in enumerate(left) if number not in taken]
    return splits


def _minimum_of_each(left: Sequence[Component], size: int, minimum: int) -> set[int]:
    taken: set[int] = set()
    held: dict[str, int] = {}
    total = 0
    sources = sorted({source for component in left for source in component.rows})
    for source in sources if minimum else []:
        for number, component in enumerate(left):
            if held.get(source, 0) >= minimum:
                break
            if source in component.rows and number not in taken and total + len(component) <= size:
                taken.add(number)
                total += len(component)
                for name, count in component.rows.items():
                    held[name] = held.get(name, 0) + count
    return taken


def subset_of_sum(sizes: Sequence[int], total: int) -> set[int]:
    """Return indices whose sizes add up to `total`, out of the shortest beginning that has any.

    Dynamic programming over the sums that can be reached, as bits of one number.

    Raises:
      ValueError: there are none.
    """
    reached = 1  # bit s: the sum s can be reached
    by: dict[int, int] = {}  # sum -> the first size with which it was
    everything = (1 << (total + 1)) - 1
    for number, size in enumerate(sizes):
        if reached >> total & 1:
            break
        new = (reached << size) & everything & ~reached
        reached |= new
        while new:
            lowest = new & -new
            by[lowest.bit_length() - 1] = number
            new ^= lowest
    if not reached >> total & 1:
        below = reached.bit_length() - 1
        raise ValueError(
            f"of the {total:,} rows that are wanted, {below:,} is the nearest number below that "
            f"can be reached (there are {sum(sizes):,} rows to choose from)"
        )
    chosen = set()
    while total:
        chosen.add(by[total])
        total -= sizes[by[total]]
    return chosen


@dataclasses.dataclass
class LeakFreeSplit(beam.PTransform):
    """Decide the split of every row by FusionRS's recipe; one that a row came with is not kept.

    Attributes:
      sizes: held-out split -> number of its rows.
      minimum: of each source in each held-out split.
      radius: of perceptual hashes, in bits.
      forced: share of the rows (see `chance.drawn`) that, with all that is alike, are train's.
    """

    sizes: dict[str, int]
    minimum: int = 0
    radius: int = 4
    forced: float = 0.0

    def expand(self, rows):
        alike = []
        for field, clusters in (("phash", True), ("ir_phash", True), ("ir_sha256", False)):
            keyed = rows | field >> beam.FlatMap(_by_field, field)
            if clusters:
                keyed = keyed | f"near {field}" >> HashClusters(self.radius)
            alike.append(keyed | f"same {field}" >> GroupByKey())
        captions = rows | "captions" >> beam.FlatMap(_by_caption)
        alike.append(captions | "same caption" >> GroupByKey())
        roots = (
            alike
            | beam.Flatten()
            | "pairs" >> beam.FlatMap(_star)
            | beam.CombineGlobally(Components())
            | "roots" >> beam.FlatMap(lambda roots: roots)
        )
        facts = rows | "sources" >> beam.Map(_facts, self.forced)
        members = (
            {"root": roots, "facts": facts}
            | "by id" >> CoGroupByKey()
            | "members" >> beam.FlatMap(_members)
            | "component" >> GroupByKey()
        )
        splits = (
            members
            | "sizes" >> beam.Map(_component)
            | "all" >> GroupByKey()
            | "assign" >> beam.FlatMap(_assign, self.sizes, self.minimum)
        )
        return (
            {"members": members, "split": splits}
            | "by component" >> CoGroupByKey()
            | "decide" >> beam.FlatMap(_decide)
        )


def _by_field(row: Row, field: str):
    if row.get(field):
        yield row[field], row["id"]


def _by_caption(row: Row):
    for key in sorted({normalise_caption(caption) for caption in row["captions"]}):
        if key:
            yield hashlib.sha256(key.encode()).hexdigest(), row["id"]


def _star(element):
    names = sorted(set(element[1]))
    return ((names[0], name) for name in names[1:])


def _facts(row: Row, forced: float):
    return row["id"], (row["source"], drawn(row["id"], forced))


def _members(element):
    name, found = element
    root = next(iter(found["root"]), name)
    return ((root, (name, *facts)) for facts in found["facts"])


def _component(element):
    root, members = element
    rows: dict[str, int] = {}
    forced = False
    for _, source, wants_train in members:
        rows[source] = rows.get(source, 0) + 1
        forced |= wants_train
    return 0, (root, rows, forced)


def _assign(element, sizes: dict[str, int], minimum: int):
    components = [Component(*fields) for fields in element[1]]
    yield from assign_splits(components, sizes, minimum).items()


def _decide(element):
    _, found = element
    (split,) = found["split"]
    for members in found["members"]:
        for name, *_ in members:
            yield name, {"split": split}


def held_out_share(names: Iterable[str], share: float) -> set[str]:
    """Draw round(share * N) of N names, by SHA-256."""
    ordered = sorted(names, key=digest)
    return set(ordered[: round(share * len(ordered))])


@dataclasses.dataclass
class ShareSplit(beam.PTransform):
    """Decide the split of the rows without one: a share of each source is held out, the rest train.

    A row that came with a split other than train, such as the official test split of its source,
    keeps it, and is not counted in the share. Else what is held out is that of `held_out_share`,
    but one worker holds eight bytes of each digest, no names. (Of rows that agree in these both
    would be held out: once in 10^12 times for a million rows.)

    Attributes:
      share: 0.05 for RS5M.
      split: name of what is held out.
    """

    share: float
    split: str = "val"

    def expand(self, rows):
        sources = (
            rows
            | "to be drawn" >> beam.Filter(lambda row: row["split"] in ("", TRAIN))
            | "sources" >> beam.Map(lambda row: (row["id"], row["source"]))
        )
        limits = (
            sources
            | "digests" >> beam.Map(lambda pair: (pair[1], _beginning(pair[0])))
            | "of a source" >> beam.CombinePerKey(_Limit(self.share))
        )
        return (
            sources
            # The limits are known when all rows were read: until then they wait in files.
            | "by id" >> GroupByKey()
            | "draw" >> beam.FlatMap(_draw, beam.pvalue.AsDict(limits), self.split)
        )


def _beginning(name: str) -> int:
    return int.from_bytes(digest(name)[:8], "big")


class _Limit(Gathered):
    """Combine numbers into the least that is not among the smallest, as many as the share."""

    def __init__(self, share: float):
        self._share = share

    def extract_output(self, held):
        count = round(self._share * len(held))
        if count == len(held):
            return 2**64
        return int(np.partition(np.frombuffer(held, np.uint64), count)[count])


def _draw(element, limits: dict[str, int], split: str):
    name, sources = element
    for source in sources:
        yield name, {"split": split if _beginning(name) < limits[source] else TRAIN}
