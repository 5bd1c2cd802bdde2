"""Which of several rows that are one image stay."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence

from rsclip_jax.build.rows import Row

Member = tuple[str, str, str]  # id, source, split of a row


@dataclasses.dataclass(frozen=True)
class Priority:
    """The order in which sources keep their rows; within a source, and besides, a hash decides.

    RS5M (section III-A): no row of laioncoco while there is another, then one of laion2b, laion400m
    or coyo700m, else any. Theirs is drawn at random, ours by SHA-256 of the id: the same each time.

    Attributes:
      first: sources that come before all others, equal among themselves.
      last: sources that come after all others.
    """

    first: Sequence[str] = ()
    last: Sequence[str] = ()

    def survivor(self, members: Iterable[tuple[str, str]]) -> str:
        """Return the id that stays of (id, source) pairs."""

        def rank(member: tuple[str, str]) -> tuple[int, bytes]:
            name, source = member
            place = 0 if source in self.first else 2 if source in self.last else 1
            return place, hashlib.sha256(name.encode()).digest()

        return min(members, key=rank)[0]

    def leavers(self, members: Sequence[Member]) -> Iterator[tuple[str, str, bool]]:
        """Yield (id, id of the row it is left for, whether that is held out) of rows that go.

        Rows that their source holds out all stay: a test set is the one that others report on. The
        other rows go for them, or for one of their own.
        """
        held_out = [member[:2] for member in members if is_held_out(member)]
        kept = self.survivor(held_out or [member[:2] for member in members])
        for member in members:
            if member[0] != kept and not is_held_out(member):
                yield member[0], kept, bool(held_out)


def member_of(row: Row) -> Member:
    """Return what decides whether a row stays."""
    return row["id"], row["source"], row["split"]


def is_held_out(member: Member) -> bool:
    """Tell whether the row came with a split other than train."""
    return member[2] not in ("", "train")
