"""What differs between machines: locks, paths, the number of cores, what output can show."""

import argparse
import errno
import fcntl
import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import IO

# What file systems without locks answer; EBADF: NFS, asked to lock a directory.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF}


def lock(file: int | IO, path: str | os.PathLike, wait: bool = False) -> None:
    """Lock an open file or directory until it is closed or the process ends.

    Some file systems have no locks (Lustre without `flock`, some NFS). There it warns and goes on,
    and nothing keeps a second process out.

    Args:
      file: the open file, or its descriptor.
      path: its name, for the warning.
      wait: wait for a process that holds the lock.

    Raises:
      BlockingIOError: another process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"the file system of {path} does not support locks ({error.strerror}): make sure that "
            "no second process writes there",
            stacklevel=2,
        )


def available_cores() -> int:
    """Count the cores that this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def printable_output() -> None:
    """Print characters that the output's encoding does not have (an ASCII locale) as escapes.

    Class names, captions and file names may have any. Commands call this before they print.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a notebook or a test puts there
            stream.reconfigure(errors="backslashreplace")


def regular_file(path: Path) -> Path:
    """Return the path, unless something else than a file is there: a pipe would be waited for.

    Raises:
      ValueError: a pipe, a device or a directory.
    """
    if path.exists() and not path.is_file():
        raise ValueError(
            f"{path} is a pipe, a device or a directory: write what it holds to a file first"
        )
    return path


def local_path(given: str | os.PathLike, flag: str) -> Path:
    """Return the absolute path of a local file or directory, a leading `~` expanded.

    Raises:
      ValueError: nothing, a path with a line break, or a URL such as gs://bucket/run.
    """
    if not os.fspath(given):
        raise ValueError(f"{flag} is empty: expected a path (is a variable of the shell not set?)")
    if any(character < " " for character in os.fspath(given)):
        raise ValueError(
            f"{flag}={os.fspath(given)!r}: expected a path without line breaks and the like"
        )
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(given)):
        raise ValueError(
            f"{flag}={os.fspath(given)}: expected a local path. Buckets are not supported: mount "
            "one (gcsfuse, s3fs, a shared disk), or copy from and to local files"
        )
    return Path(given).expanduser().absolute()


def output_directory(given: str | os.PathLike, flag: str) -> Path:
    """Return the absolute path of a directory that is there or can be made; make nothing.

    Raises:
      ValueError: see `local_path`; a file is in the way, or it cannot be written.
    """
    path = local_path(given, flag)
    there = next(place for place in (path, *path.parents) if os.path.exists(place))
    if not there.is_dir():
        raise ValueError(f"{flag}={path}: {there} is a file; give a directory")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(
            f"{flag}={path}: {there} cannot be written to (a read-only disk, or another user's); "
            "give another directory"
        )
    return path


def check_paths(args: argparse.Namespace, *read: str) -> None:
    """Make the paths of a command absolute: of the flags that it reads, and of --output.

    Raises:
      ValueError: see `local_path` and `output_directory`.
    """
    for flag in (*read, "output"):
        if (given := getattr(args, flag)) is not None:
            checked = output_directory if flag == "output" else local_path
            setattr(args, flag, str(checked(given, f"--{flag}")))
