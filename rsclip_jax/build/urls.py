"""One row for each URL."""

import dataclasses
import re
import urllib.parse

import apache_beam as beam

from rsclip_jax.build.rows import Row
from rsclip_jax.build.shuffle import GroupByKey
from rsclip_jax.build.stages import DROPPED
from rsclip_jax.build.survivor import Member, Priority, member_of

_PORTS = {"http": "80", "https": "443"}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986, section 2.3


def normalise_url(url: str) -> str:
    """Return the form in which equal URLs are equal texts.

    After RFC 3986, section 6.2.2: lower-case host, no needless escapes, upper-case escapes, no
    default port, "/" for no path. And further: http is https, the fragment goes. The query stays
    as it is, for servers make images by it. What cannot be parsed stays whole, without white space
    around it.
    """
    try:
        parts = urllib.parse.urlsplit(url.strip())
    except ValueError:  # such as a bracket that is not closed: no reason to end a whole stage
        return url.strip()
    scheme, host = parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower()
    host = host.removesuffix(f":{_PORTS.get(scheme, '')}")
    path = _ESCAPE.sub(_plain, parts.path or "/")
    query = f"?{_ESCAPE.sub(_plain, parts.query)}" if parts.query else ""
    return f"{'https' if scheme == 'http' else scheme}://{host}{path}{query}"


def _plain(escape: re.Match) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


@dataclasses.dataclass
class UrlDuplicates(beam.PTransform):
    """Decide which of the rows of one URL go (a stage of decisions).

    Attributes:
      priority: the fields of `Priority`.
      sources: rows of others are not looked at.
    """

    priority: dict
    sources: list[str]

    def expand(self, rows):
        return (
            rows
            | "of sources" >> beam.Filter(_has_url, self.sources)
            | "keyed" >> beam.Map(_keyed)
            | "same URL" >> GroupByKey()
            | "survivor" >> beam.FlatMap(_others, Priority(**self.priority))
        )


def _has_url(row: Row, sources: list[str]) -> bool:
    return bool(row["url"]) and row["source"] in sources


def _keyed(row: Row) -> tuple[str, Member]:
    return normalise_url(row["url"]), member_of(row)


def _others(element, priority: Priority):
    for name, kept, held_out in priority.leavers(list(element[1])):
        what = "same URL, of a held-out row" if held_out else "same URL"
        yield name, {DROPPED: f"{what}: as {kept}"}
