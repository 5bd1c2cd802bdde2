"""A chat-completions server on loopback that answers, or misbehaves, as a test says."""

import collections
import contextlib
import dataclasses
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass
class Reply:
    """What is sent back.

    Attributes:
      text: content of the answer, of a completion of 100 prompt and 20 completion tokens.
      status, headers, body: in place of the completion if `body` is given.
      delay: seconds before it.
      cut: close the connection in the middle of the body.
      wait: an event to wait for first.
    """

    text: str = ""
    status: int = 200
    body: Any = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    wait: threading.Event | None = None
    finish_reason: str = "stop"


class ChatServer:
    """Holds what was asked: `bodies`, `headers` and `times` of requests, in order.

    Attributes:
      paid: completions made, by the JSON text of their messages; sent successfully or not.
      most_at_once: greatest number of requests under way.
    """

    def __init__(self, reply: Callable[[dict, int], Reply]):
        self.reply = reply
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paid: collections.Counter[str] = collections.Counter()
        self.most_at_once = self.under_way = 0
        self.url = ""
        self._lock = threading.Lock()

    def respond(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append({k.lower(): v for k, v in handler.headers.items()})
            self.times.append(time.monotonic())
            self.under_way += 1
            self.most_at_once = max(self.most_at_once, self.under_way)
        reply = self.reply(body, number)
        if reply.wait:
            reply.wait.wait(30)
        time.sleep(reply.delay)
        with self._lock:
            self.under_way -= 1
            if reply.status == 200:
                self.paid[json.dumps(body["messages"])] += 1
        content = reply.body
        if content is None:
            content = {
                "model": body["model"] + "-served",
                "choices": [
                    {
                        "message": {"role": "assistant", "content": reply.text},
                        "finish_reason": reply.finish_reason,
                    }
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20},
            }
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        with contextlib.suppress(OSError):  # who asked may be dead by now
            handler.send_response(reply.status)
            for name, value in reply.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data[: len(data) // 2] if reply.cut else data)
            if reply.cut:
                handler.close_connection = True


@contextlib.contextmanager
def serve(reply: Callable[[dict, int], Reply]) -> Iterator[ChatServer]:
    """Run a server; `reply` is given the body of a request and its number from 0."""
    server = ChatServer(reply)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            assert self.path == "/v1/chat/completions"
            server.respond(self)

        def log_message(self, *_):
            pass

    class Listener(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    listener = Listener(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listener.server_port}/v1"
    thread = threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
