"""Images that were fetched after the rows were known: what img2dataset made of a list of URLs."""

import array
import dataclasses
import hashlib
import io
import itertools
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsclip_jax.build import files, img2dataset
from rsclip_jax.build.rows import Row
from rsclip_jax.build.shuffle import CoGroupByKey
from rsclip_jax.build.stages import DROPPED, Stage, Table
from rsclip_jax.build.urls import normalise_url
from rsclip_jax.data.text import without_surrogates

_AT_ONCE = 100_000  # rows


def write_url_list(table: Table, path: str) -> int:
    """Write the URLs of rows without an image as img2dataset's input (Parquet); return how many.

    Each once: of its normalised form eight bytes of a hash are held, so millions fit.
    """
    digests = array.array("Q")
    for row in _waiting(table):
        digest = hashlib.sha256(normalise_url(row["url"]).encode(errors="surrogatepass")).digest()
        digests.append(int.from_bytes(digest[:8], "big"))
    if not digests:
        return 0
    wanted = np.zeros(len(digests), bool)
    wanted[np.unique(np.frombuffer(digests, np.uint64), return_index=True)[1]] = True
    urls = itertools.compress((row["url"] for row in _waiting(table)), wanted)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, pa.schema({"url": pa.string()})) as file:
        while some := list(itertools.islice(urls, _AT_ONCE)):
            file.write_table(pa.table({"url": some}))
    files.write(path, buffer.getvalue())
    return int(wanted.sum())


def _waiting(table: Table) -> Iterator[Row]:
    return (row for row in table.read(["image", "url", "meta"]) if _waits(row))


def _waits(row: Row) -> bool:
    """A row of img2dataset's own output had its chance."""
    return bool(row["url"]) and not row["image"] and '"not_fetched"' not in row["meta"]


def fetched_stage(directory: str) -> Stage:
    """Return the stage that gives rows their images; see `Fetched`."""
    shards = img2dataset.shards(directory) if directory else []
    # Another attempt at the same URLs changes what was fetched.
    states = [files.state(f"{shard}.parquet") for shard in shards]
    return Stage(
        "fetched", Fetched(directory), "decisions", column="downloaded", settings={"states": states}
    )


@dataclasses.dataclass
class Fetched(beam.PTransform):
    """Give rows without an image the one fetched for their URL; those without go (decisions).

    Attributes:
      directory: output folder of img2dataset, "" if nothing was to be fetched.
    """

    directory: str = ""

    def expand(self, rows):
        shards = img2dataset.shards(self.directory) if self.directory else []
        images = (
            rows.pipeline
            | "shards" >> beam.Create(shards)
            | beam.Reshuffle()
            | "fetched" >> beam.FlatMap(_fetched)
        )
        wanted = rows | "without image" >> beam.Filter(lambda row: not row["image"])
        return (
            {"image": images, "row": wanted | beam.Map(_by_url)}
            | CoGroupByKey()
            | "decide" >> beam.FlatMap(_decide)
        )


def _fetched(shard: str):
    for told in img2dataset.read_shard(shard):
        if told.get("url"):
            url = without_surrogates(normalise_url(told["url"]))  # no row has one with them
            status = told["problem"] or str(told.get("status"))
            yield url, (told["image"], without_surrogates(status))


def _by_url(row: Row):
    return normalise_url(row["url"]) if row["url"] else "", row["id"]


def _decide(element):
    url, found = element
    outcomes = sorted(found["image"])
    image = next((image for image, _ in outcomes if image), "")
    status = outcomes[0][1] if outcomes else "not in the list" if url else "no URL"
    for name in found["row"]:
        yield name, {"image": image} if image else {DROPPED: f"not downloaded: {status}"}
