"""The answers of a language model on disk, one small file each, so that none is paid for twice.

DIRECTORY/ab/ab12...json holds an answer; its name is the hash of all that the answer depends on. It
is written whole or not at all, and before anybody uses it. While a
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
import json
import os
from collections.abc import Iterator
from typing import Any

from rsclip_jax import host
from rsclip_jax.build import files

UNKNOWN_MODEL = "an unknown model"


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


class Claim:
    """The right to ask for one answer, see `AnswerStore.claim`.

    Attributes:
      answer: there already, if another worker was faster.
    """

    def __init__(self, store: "AnswerStore", key: str, sent: int):
        self._store = store
        self._key = key
        self._sent = sent  # times, of which none has brought an answer
        self.answer = store.get(key)

    def sending(self) -> None:
        """Note that the request is about to be sent: from now on it may cost something."""
        self._note(self._sent + 1)

    def was_free(self) -> None:
        """Take back the last `sending`: the server refused, or was never reached."""
        self._note(self._sent - 1)

    def save(self, answer: dict[str, Any]) -> dict[str, Any]:
        """Store the answer to the last `sending`, and return it as it is stored."""
        answer = answer | {"unanswered": self._sent - 1}
        files.write(self._store.path(self._key, ".json"), json.dumps(answer).encode())
        self._note(0)
        return answer

    def _note(self, sent: int) -> None:
        self._sent = sent
        path = self._store.path(self._key, ".asked")
        if files.is_local(path):
            os.truncate(path, sent)  # as it is: the lock is on this very file
        elif sent:
            files.write(path, b"." * sent)
        else:
            files.remove([path])


class AnswerStore:
    """Answers by key, 64 hexadecimal digits.

    Raises:
      ValueError: no directory given.
    """

    def __init__(self, directory: str):
        if not directory:
            raise ValueError("answers need a directory: without one they would be paid for again")
        self._directory = directory

    def path(self, key: str, ending: str) -> str:
        """Return where a file of a key lies."""
        return files.join(self._directory, key[:2], f"{key}{ending}")

    def get(self, key: str) -> dict[str, Any] | None:
        """Return an answer, or None."""
        try:
            return json.loads(files.read_text(self.path(key, ".json")))
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def claim(self, key: str) -> Iterator[Claim]:
        """Wait until nobody else asks for this answer."""
        path = self.path(key, ".asked")
        if not files.is_local(path):
            yield Claim(self, key, _size(path))
            return
        handle = _lock(path)
        try:
            yield Claim(self, key, os.fstat(handle).st_size)
        finally:
            if not os.fstat(handle).st_size:
                files.remove([path])
            os.close(handle)

    def total(self, model: str) -> tuple[Usage, dict[str, Usage]]:
        """Read all that lies in the store and sum it up, by the model that was asked.

        Returns:
          What `model` was asked for; and what others were, by name. Answers that do not tell, as
          those of earlier versions, are of UNKNOWN_MODEL, and so are requests without any answer
          if the store is not of `model` alone.
        """
        usages: dict[str, Usage] = {}
        unanswered = 0
        for number in range(256):
            paths = files.list_files(files.join(self._directory, f"{number:02x}"))
            for path in paths:
                if path.endswith(".json"):
                    answer = json.loads(files.read_text(path))
                    asked = answer.get("requested_model", UNKNOWN_MODEL)
                    usages.setdefault(asked, Usage()).add(answer)
                # A kill between the answer and the end of its claim leaves both.
                elif path.endswith(".asked") and path[: -len("asked")] + "json" not in paths:
                    unanswered += _size(path)
        if unanswered:
            owner = model if set(usages) <= {model} else UNKNOWN_MODEL
            usages.setdefault(owner, Usage()).unanswered += unanswered
        return usages.pop(model, Usage()), usages


def _size(path: str) -> int:
    try:
        with files.open_read(path) as file:
            return len(file.read())
    except FileNotFoundError:
        return 0


def _lock(path: str) -> int:
    """Return a handle of the file, made if need be, that no other process or thread has locked."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        host.lock(handle, path, wait=True)
        # Who held the lock before may have removed the file: then it locks nothing any more.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)
