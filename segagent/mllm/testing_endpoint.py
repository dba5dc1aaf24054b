"""A small server on 127.0.0.1 that speaks the OpenAI chat protocol, and misbehaves as it is told: requests -> answers.

For tests of `endpoint`, and for trying a run against a server without a model.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import cv2
import numpy as np


def picture_hash(image: np.ndarray) -> str:
    """Of `[H, W, 3]` uint8 RGB."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes() + str(image.shape).encode()).hexdigest()[:12]


def reply_to(body: dict[str, Any], k: int = 0) -> str:
    """What the server answers: everything that identifies the request, so that a mix-up shows."""
    picture, text = body["messages"][-1 - (body["messages"][-1]["role"] == "assistant")]["content"]
    data = base64.b64decode(picture["image_url"]["url"].removeprefix("data:image/png;base64,"), validate=True)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    return f"{text['text']}|{picture_hash(image)}|{body.get('seed')}|{k}"


def answer_to(body: dict[str, Any]) -> dict[str, Any]:
    """A proper answer, with `n` choices."""
    choices = []
    for k in range(body.get("n", 1)):
        message = {"role": "assistant", "content": reply_to(body, k)}
        choice: dict[str, Any] = {"index": k, "message": message, "finish_reason": "stop"}
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -0.25 * k}]}
        choices.append(choice)
    return {"object": "chat.completion", "choices": choices}


class ProtocolServer:
    """As a context manager; `url` is where it listens.

    behave(body, count) -> None for a proper answer, or (status, headers, text), "drop", "cut", "trickle" or
    ("slow", seconds); count: how often this very request came before. models: what it lists, None: nothing. key: what
    it asks for. bodies, headers: of the requests, in order. seen: request -> how often it came again. most_at_once:
    requests under way together.
    """

    def __init__(
        self,
        behave: Callable[[dict[str, Any], int], Any] = lambda body, count: None,
        *,
        models: Sequence[str] | None = ("tiny",),
        key: str | None = None,
    ) -> None:
        self.behave, self.models, self.key = behave, models, key
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.seen: dict[str, int] = {}
        self.most_at_once, self._at_once, self._lock = 0, 0, threading.Lock()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"outer": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def begin(self, body: dict[str, Any]) -> int:
        """Notes a request; returns how often it came before."""
        with self._lock:
            self.bodies.append(body)
            identity = json.dumps(body, sort_keys=True)
            self.seen[identity] = self.seen.get(identity, -1) + 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return self.seen[identity]

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    outer: ProtocolServer

    def log_message(self, *args: Any) -> None: ...

    def send(self, status: int, headers: dict[str, Any], text: str) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def refuse_key(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.outer.key is None or given == f"Bearer {self.outer.key}":
            return False
        self.send(401, {}, json.dumps({"error": {"message": f"bad key: {given.removeprefix('Bearer ')}"}}))
        return True

    def do_GET(self) -> None:
        if self.refuse_key():
            return
        if self.outer.models is None:
            self.send(404, {}, "no such path")
        else:
            self.send(200, {}, json.dumps({"data": [{"id": name} for name in self.outer.models]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.outer.headers.append(dict(self.headers))
        if self.refuse_key():
            return
        count = self.outer.begin(body)
        try:
            self.answer(body, self.outer.behave(body, count))
        except OSError:
            self.close_connection = True  # the client has hung up
        finally:
            self.outer.end()

    def hang_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def answer(self, body: dict[str, Any], behaviour: Any) -> None:
        text = json.dumps(answer_to(body)) if behaviour is None or isinstance(behaviour, str) else ""
        if behaviour is None:
            self.send(200, {}, text)
        elif behaviour == "drop":
            self.hang_up()
        elif behaviour == "cut":
            self.send(200, {"Content-Length": len(text) + 500}, text[: len(text) // 2])
            self.hang_up()
        elif behaviour == "trickle":
            self.send(200, {"Content-Length": 10**6}, "")
            for _ in range(200):
                self.wfile.write(b" ")
                self.wfile.flush()
                time.sleep(0.02)
        elif behaviour[0] == "slow":
            time.sleep(behaviour[1])
            self.send(200, {}, json.dumps(answer_to(body)))
        else:
            self.send(*behaviour)
