"""Files that lie here, or wherever Beam's FileSystems reach (gs://, s3://, hdfs://)."""

import hashlib
import io
import os
import posixpath
import re
from pathlib import Path
from typing import BinaryIO

from rsclip_jax import atomic, host

_PART = re.compile(r"(?P<path>.+)#(?P<offset>\d+)\+(?P<size>\d+)", re.DOTALL)


def is_local(path: str) -> bool:
    """Tell a path of this machine from a URL of a file system."""
    return "://" not in path


def join(directory: str, *names: str) -> str:
    """Join names to a directory, local or not."""
    return posixpath.join(directory, *names)


def _systems():
    from apache_beam.io.filesystems import FileSystems  # only what is not local needs Beam

    return FileSystems


def open_read(path: str) -> BinaryIO:
    """Open a file for reading; it can seek.

    Raises:
      FileNotFoundError: there is none. ValueError: a pipe, a device or a directory.
    """
    if is_local(path):
        return open(host.regular_file(Path(path)), "rb")
    if not exists(path):  # each of Beam's file systems has an error of its own
        raise FileNotFoundError(f"no such file: {path}")
    # Not by the suffix: an image called x.gz stays as it is.
    return _systems().open(path, compression_type="uncompressed")


def reference(path: str, offset: int, size: int) -> str:
    """Return what `read_image` reads `size` bytes from `offset` of a file by."""
    return f"{path}#{offset}+{size}"


def read_image(given: str) -> bytes:
    """Read what a row refers to: the file PATH, or the part of it that PATH#OFFSET+SIZE names.

    Raises:
      OSError: it cannot be read, or the file ends before the part does.
      ValueError: see `open_read`.
    """
    part = _PART.fullmatch(given)
    if part is None:
        with open_read(given) as file:
            return file.read()
    offset, size = int(part["offset"]), int(part["size"])
    with open_read(part["path"]) as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise OSError(f"{given}: the file ends {size - len(data):,} bytes too early")
    return data


def exists(path: str) -> bool:
    """Tell whether a file is there."""
    return os.path.exists(path) if is_local(path) else _systems().exists(path)


def state(path: str) -> list[int]:
    """Return what changes when a local file does, [] if it is not there or not local."""
    if not is_local(path) or not os.path.exists(path):
        return []
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def tree_state(directory: str) -> str:
    """Return what changes when a local file below a directory does, "" if it is not local.

    Raises:
      FileNotFoundError: the local directory is not there.
    """
    if not is_local(directory):
        return ""
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"no such directory: {directory}")
    digest = hashlib.sha256()
    for parent, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            told = [os.path.relpath(path, directory), *state(path)]
            digest.update(f"{told}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def write(path: str, data: bytes) -> None:
    """Write a file that appears whole or not at all; its directory is made."""
    if is_local(path):
        atomic.write(path, data)
    else:
        # A store of objects shows nothing before the file is closed.
        with _systems().create(path, compression_type="uncompressed") as file:
            file.write(data)


def read_text(path: str) -> str:
    """Read a file of UTF-8 text."""
    with open_read(path) as file:
        return io.TextIOWrapper(file, encoding="utf-8").read()


def list_files(directory: str) -> list[str]:
    """Return the paths of the files right in a directory, sorted; none if it is not there."""
    if is_local(directory):
        if not os.path.isdir(directory):
            return []
        with os.scandir(directory) as entries:
            return sorted(join(directory, e.name) for e in entries if e.is_file())
    found = _systems().match([join(directory, "*")])[0].metadata_list
    return sorted(file.path for file in found)


def remove(paths: list[str]) -> None:
    """Remove files, if they are there."""
    for path in paths:
        if is_local(path):
            if os.path.exists(path):
                os.remove(path)
        elif exists(path):
            _systems().delete([path])
