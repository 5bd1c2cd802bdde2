"""Files that appear whole or not at all, whatever stops the process that writes them."""

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path; what is written there takes the place of `path` on leaving.

    The directory of `path` is made. The data are on the disk before the name is. If the block
    raises, `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of its own: several processes may write the same file at once.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.unfinished")
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
