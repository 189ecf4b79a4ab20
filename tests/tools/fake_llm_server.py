"""A server on this machine that speaks the OpenAI protocol, and misbehaves when told to."""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake-model"


class FakeServer(ThreadingHTTPServer):
    """Answers every prompt with a list that depends on the prompt alone.

    `faults` are names of `Handler.FAULTS`, used up by the first requests; `always` is one that never ends.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.always: str | None = None
        self.seconds = 0.0  # that every answer takes
        self.together: threading.Barrier | None = None  # answers wait until so many are asked for
        self.lock = threading.Lock()
        self.n_at_a_time = self.most_at_a_time = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about."""


def names_for(prompt: str, n: int = 5) -> list[str]:
    """What the server answers to a prompt."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return [f"Gadget {digest[i : i + 6]} of steel" for i in range(n)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.requests.append({"path": self.path, "headers": headers, "body": body})
            fault = server.faults.pop(0) if server.faults else server.always
            server.n_at_a_time += 1
            server.most_at_a_time = max(server.most_at_a_time, server.n_at_a_time)
        try:
            if server.together is not None:
                server.together.wait()
            time.sleep(server.seconds)
            if fault is None:
                self.answer(body)
            else:
                self.misbehave(fault, body)
        finally:
            with server.lock:
                server.n_at_a_time -= 1

    def answer(self, body: dict[str, Any], finish_reason: str = "stop") -> None:
        chat = "messages" in body
        names = names_for(body["messages"][-1]["content"] if chat else body["prompt"])
        if "response_format" in body:
            text = json.dumps({"names": names})
        else:
            text = "\n".join(f"{i}. {name}" for i, name in enumerate(names, 1))
        if not chat:
            text = text.removeprefix("1.")  # the prompt ends with it
        if finish_reason == "length":
            text = text[:-12]
        self.send_completion(text, chat, finish_reason)

    def send_completion(self, text: Any, chat: bool, finish_reason: str) -> None:
        content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, "finish_reason": finish_reason, **content}
        usage = {"prompt_tokens": 70, "completion_tokens": 30, "total_tokens": 100}
        kind = "chat.completion" if chat else "text_completion"
        self.send(
            200,
            {"id": "1", "object": kind, "created": 1, "model": MODEL, "choices": [choice], "usage": usage},
        )

    def send(self, status: int, value: Any, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", headers.pop("content_length", str(len(data))))
        for name, header in headers.items():
            self.send_header(name.replace("_", "-"), header)
        self.end_headers()
        self.wfile.write(data)

    def misbehave(self, fault: str, body: dict[str, Any]) -> None:
        chat = "messages" in body
        if fault.isdigit():
            self.send(int(fault), {"error": {"message": f"no: {fault}", "type": "test"}})
        elif fault == "429, wait":
            self.send(429, {"error": {"message": "later"}}, retry_after="0.3")
        elif fault == "slow":
            time.sleep(3)
            self.answer(body)
        elif fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for part in (self.rfile, self.wfile, self.connection):
                part.close()
            self.close_connection = True
        elif fault == "reset in the middle":
            self.send(200, b'{"id": "1", "choices": [{"mes', content_length="500")
            self.close_connection = True
        elif fault == "cut-off JSON":
            self.send(200, b'{"id": "1", "choices": [{"mes')
        elif fault == "no JSON":
            self.send(200, b"<html>gateway</html>")
        elif fault == "wrong schema":
            self.send(200, {"result": "1. a\n2. b\n3. c"})
        elif fault == "no choices":
            self.send(200, {"id": "1", "object": "x", "created": 1, "model": MODEL, "choices": []})
        elif fault == "number for text":
            choice = {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": 7},
                "text": 7,
            }
            self.send(200, {"id": "1", "object": "x", "created": 1, "model": MODEL, "choices": [choice]})
        elif fault == "too long":
            self.answer(body, finish_reason="length")
        elif fault == "no schema":
            if "response_format" in body:
                self.send(400, {"error": {"message": "response_format is not supported"}})
            else:
                self.answer(body)
        elif fault == "parts":
            names = names_for(body["messages"][-1]["content"])
            text = "\n".join(f"{i}. {name}" for i, name in enumerate(names, 1))
            half = len(text) // 2
            parts = [{"type": "text", "text": part} for part in (text[:half], text[half:])]
            self.send_completion([{"type": "reasoning", "summary": "hm"}, *parts], chat, "stop")
        elif fault == "prose":
            self.send_completion("I would rather not say.", chat, "stop")
        elif fault == "empty":
            self.send_completion("", chat, "stop")
        else:
            raise ValueError(fault)


@contextmanager
def serving() -> Iterator[FakeServer]:
    """A server in a thread."""
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
