"""Which of several rows that are one image stays."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence


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
