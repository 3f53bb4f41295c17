"""A webhook of alerts on loopback that keeps what it gets, or answers as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import orjson

from tests.support.processes import wait_until

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Webhook:
    """`texts` are those that it answered well; `answer` gets the connection and may do anything."""

    url: str
    texts: list[str] = field(default_factory=list)
    answer: Callable[[socket.socket], None] | None = None
    #: where the text stands in the JSON that it gets
    key: str = "text"
    #: how many requests came
    requests: int = 0

    def wait_for(self, *words: str, seconds: float = 60.0) -> str:
        """The first text in which these words stand."""

        def came() -> list[str]:
            return [text for text in self.texts if all(word in text for word in words)]

        wait_until(came, seconds, what=f"an alert with {words}, among {self.texts},")
        return came()[0]


@contextmanager
def webhook() -> Iterator[Webhook]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hook = Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/hook")
        thread = threading.Thread(target=_serve, args=(server, hook), daemon=True)
        thread.start()
        yield hook
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(server: socket.socket, hook: Webhook) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, suppress(OSError, ValueError):
            connection.settimeout(10)
            with connection.makefile("rb") as stream:
                size = 0
                while (line := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    size = int(value) if name.lower() == b"content-length" else size
                body = stream.read(size)
            hook.requests += 1
            if hook.answer is not None:
                hook.answer(connection)
                continue
            hook.texts.append(orjson.loads(body)[hook.key])  # before the caller goes on
            connection.sendall(GOOD)
