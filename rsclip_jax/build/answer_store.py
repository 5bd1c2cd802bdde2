"""The answers of a language model on disk, one small file each, so that none is paid for twice.

DIRECTORY/ab/ab12...json holds an answer; its name is the hash of all that the answer depends on. It
is written whole or not at all (temporary file, fsync, rename), and before anybody uses it. While a
request is under way, ab12...asked holds one byte for each time it was sent without an answer so
far: what is left of it after a kill or a time-out tells which requests may have been charged for
nothing. That file is also the lock which keeps two workers from asking the same thing at once: it
dies with its process.

The directory may be shared by the workers of several machines if its file system has locks. A path
with a scheme (gs://bucket/answers) is read and written by Beam's file systems. Those have no locks,
so two workers that ask the same thing at the same moment pay both.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol


@dataclasses.dataclass
class Usage:
    """What requests cost.

    Attributes:
      answers: answers received, those that turned out unusable included.
      prompt_tokens, completion_tokens: as the server counts them.
      without_usage: answers whose server did not count.
      unanswered: requests sent, perhaps charged, that brought no answer (time-outs, connections
        lost, the process killed).
    """

    answers: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    without_usage: int = 0
    unanswered: int = 0

    def add(self, answer: dict[str, Any]) -> None:
        """Count one stored answer."""
        self.answers += 1
        self.prompt_tokens += answer["prompt_tokens"] or 0
        self.completion_tokens += answer["completion_tokens"] or 0
        self.without_usage += answer["prompt_tokens"] is None
        self.unanswered += answer["unanswered"]

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the price of the tokens, given those of a million."""
        tokens = self.prompt_tokens * prompt_price + self.completion_tokens * completion_price
        return tokens / 1e6

    def line(self, prompt_price: float = 0.0, completion_price: float = 0.0) -> str:
        """Say it in one line."""
        text = (
            f"{self.answers:,} answers, {self.prompt_tokens:,} prompt tokens, "
            f"{self.completion_tokens:,} completion tokens"
        )
        if prompt_price or completion_price:
            text += f", cost {self.cost(prompt_price, completion_price):,.2f}"
        if self.without_usage:
            text += f"; {self.without_usage:,} answers without a token count"
        if self.unanswered:
            text += f"; {self.unanswered:,} requests sent that brought no answer, perhaps charged"
        return text


class Claim(Protocol):
    """The right to ask for one answer, see `AnswerStore.claim`."""

    answer: dict[str, Any] | None  # there already: another worker was faster

    def sending(self) -> None:
        """Note that the request is about to be sent: from now on it may cost something."""

    def was_free(self) -> None:
        """Take back the last `sending`: the server refused, or was never reached."""

    def save(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Store the answer to the last `sending`, and return it as it is stored."""


class AnswerStore(Protocol):
    """Answers by key, 64 hexadecimal digits."""

    def get(self, key: str) -> dict[str, Any] | None:
        """Return an answer, or None."""

    def claim(self, key: str) -> contextlib.AbstractContextManager[Claim]:
        """Wait until nobody else asks for this answer."""

    def total(self) -> Usage:
        """Read all that lies in the store and sum it up."""


def open_store(directory: str) -> AnswerStore:
    """Open a store, which is made with its first answer.

    Raises:
      ValueError: no directory given.
    """
    if not directory:
        raise ValueError("answers need a directory (cache): without one they would be paid again")
    return _RemoteStore(directory) if "://" in directory else _LocalStore(Path(directory))


class _LocalStore:
    def __init__(self, directory: Path):
        self._directory = directory

    def _path(self, key: str, ending: str) -> Path:
        return self._directory / key[:2] / f"{key}{ending}"

    def get(self, key: str) -> dict[str, Any] | None:
        try:
            return json.loads(self._path(key, ".json").read_bytes())
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator["_LocalClaim"]:
        path = self._path(key, ".asked")
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX)
            # Who held the lock before may have removed the file: then it locks nothing any more.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path)):
                    break
            os.close(handle)
        try:
            yield _LocalClaim(self._path(key, ".json"), handle, self.get(key))
        finally:
            if not os.fstat(handle).st_size:
                path.unlink(missing_ok=True)
            os.close(handle)

    def total(self) -> Usage:
        usage = Usage()
        for path in self._directory.glob("??/*.json"):
            usage.add(json.loads(path.read_bytes()))
        for path in self._directory.glob("??/*.asked"):
            # A kill between the answer and the end of its claim leaves both.
            if not path.with_suffix(".json").exists():
                with contextlib.suppress(FileNotFoundError):  # answered at this moment
                    usage.unanswered += path.stat().st_size
        return usage


@dataclasses.dataclass
class _LocalClaim:
    path: Path  # of the answer
    handle: int  # of the locked file whose size counts
    answer: dict[str, Any] | None

    def sending(self) -> None:
        os.pwrite(self.handle, b".", os.fstat(self.handle).st_size)

    def was_free(self) -> None:
        os.ftruncate(self.handle, os.fstat(self.handle).st_size - 1)

    def save(self, answer: dict[str, Any]) -> dict[str, Any]:
        answer = answer | {"unanswered": os.fstat(self.handle).st_size - 1}
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
        with open(handle, "w", encoding="utf-8") as file:
            json.dump(answer, file, ensure_ascii=True)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are readable by their owner only
        os.replace(temporary, self.path)
        os.ftruncate(self.handle, 0)
        return answer


class _RemoteStore:
    """The same on an object store, where a written object appears whole when it is closed."""

    def __init__(self, directory: str):
        from apache_beam.io.filesystems import FileSystems

        self._files = FileSystems
        self._directory = directory.rstrip("/")

    def _path(self, key: str, ending: str) -> str:
        return f"{self._directory}/{key[:2]}/{key}{ending}"

    def read(self, path: str) -> bytes | None:
        if not self._files.exists(path):
            return None
        with self._files.open(path) as file:
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        with self._files.create(path) as file:
            file.write(data)

    def delete(self, path: str) -> None:
        self._files.delete([path])

    def get(self, key: str) -> dict[str, Any] | None:
        data = self.read(self._path(key, ".json"))
        return None if data is None else json.loads(data)

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator["_RemoteClaim"]:
        sent = len(self.read(self._path(key, ".asked")) or b"")
        yield _RemoteClaim(self, self._path(key, ""), sent, None)

    def total(self) -> Usage:
        usage = Usage()
        matches = self._files.match([f"{self._directory}/*"])[0].metadata_list
        answered = {m.path.removesuffix(".json") for m in matches if m.path.endswith(".json")}
        for match in matches:
            key, _, ending = match.path.rpartition(".")
            if ending == "json":
                usage.add(json.loads(self.read(match.path) or b""))
            elif ending == "asked" and key not in answered:
                usage.unanswered += match.size_in_bytes
        return usage


@dataclasses.dataclass
class _RemoteClaim:
    store: _RemoteStore
    path: str  # without its ending
    sent: int
    answer: dict[str, Any] | None

    def _note(self) -> None:
        if self.sent:
            self.store.write(f"{self.path}.asked", b"." * self.sent)
        else:
            self.store.delete(f"{self.path}.asked")

    def sending(self) -> None:
        self.sent += 1
        self._note()

    def was_free(self) -> None:
        self.sent -= 1
        self._note()

    def save(self, answer: dict[str, Any]) -> dict[str, Any]:
        answer = answer | {"unanswered": self.sent - 1}
        self.store.write(f"{self.path}.json", json.dumps(answer).encode())
        self.sent = 0
        self._note()
        return answer
