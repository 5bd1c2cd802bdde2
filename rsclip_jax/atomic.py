"""Files that appear whole or not at all, whatever stops the process that writes them."""

import contextlib
import errno
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

# In the messages of whatever writes: Python, Arrow, ArrayRecord, TensorStore.
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


class DiskFullError(OSError):
    """There is no space left; the message names what was written."""


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Say in one line that the disk is full, whatever kind of error the block raises of it.

    Raises:
      DiskFullError: names `path` and the space that is left.
    """
    try:
        yield
    except DiskFullError:
        raise  # of a file in a directory: it names the file
    except Exception as error:
        if not of_full_disk(error):
            raise
        raise _full(path, "could not be written", _free(path)) from error


def check_space(path: str | os.PathLike, size: int) -> None:
    """Refuse to begin writing `size` bytes where there is no space for them.

    Raises:
      DiskFullError: names `path`, the size and the space that is left.
    """
    if (free := _free(path)) < size:
        raise _full(path, f"needs {size / 1e6:,.1f} MB more", free)


def _free(path: str | os.PathLike) -> int:
    path = Path(path).absolute()
    usage = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists()))
    return usage.free if usage.total else sys.maxsize  # some mounted buckets do not tell


def _full(path: str | os.PathLike, what: str, free: int) -> DiskFullError:
    return DiskFullError(
        f"the disk is full, or your quota of it: {path} {what} ({free / 1e6:,.1f} MB are free "
        "there). Nothing half-written is taken for whole: make space, and give the same command "
        "again"
    )


def of_full_disk(error: BaseException | None) -> bool:
    """Tell whether an error is that of a full disk, or of an exhausted quota."""
    return any(text in str(error) for text in FULL)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path; what is written there takes the place of `path` on leaving.

    The directory of `path` is made. The data are on the disk before the name is. If the block
    raises, `path` stays as it was.

    Raises:
      DiskFullError: see `writing`.
    """
    path = Path(path)
    # Of its own: several processes may write the same file at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file atomically, text as UTF-8 with half characters as Python escapes them."""
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def set_aside(path: Path, reason: object) -> Path:
    """Rename a damaged file to NAME.damaged, say so, and return the new path."""
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    print(f"{path} is damaged ({reason}): it is now {aside.name}", file=sys.stderr)
    return aside
