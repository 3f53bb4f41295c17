"""The receiver's listener in this process, and requests by their bytes."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from state.db.database import Database
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.receiver import Receiver
from syncer.passthrough.scopes import SCOPES, Caller
from syncer.process import server
from syncer.process.supervisor import Supervisor
from syncer.stop import Stop
from tests.support.daemon import KEY
from tests.support.events import SECRET, unique

BASIC = f"authorization: Basic {base64.b64encode(f'{KEY}:'.encode()).decode()}\r\n".encode()
EVENT = {"userId": "u1", "event": "Tested"}


@dataclass
class Listener:
    """The receiver's server, with what it refused."""

    address: tuple[str, int]
    refused: Counter[str] = field(default_factory=Counter)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=10)

    def ask(self, request: bytes) -> list[tuple[int, bytes]]:
        """The answers to what is sent on a connection of its own, which the client does not use
        any more then."""
        with closing(self.connect()) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return answers(connection)


def request(
    body: bytes = b"",
    *,
    path: str = "/v1/track",
    method: str = "POST",
    headers: bytes = BASIC,
    version: str = "1.1",
) -> bytes:
    head = f"{method} {path} HTTP/{version}\r\nhost: x\r\ncontent-length: {len(body)}\r\n".encode()
    return head + headers + b"\r\n" + body


def track(**more: Any) -> bytes:
    return orjson.dumps(EVENT | {"messageId": unique()} | more)


def answers(connection: socket.socket, most: int = 1000) -> list[tuple[int, bytes]]:
    """Status and body of each answer, until the connection ends or so many are there."""
    pairs: list[tuple[int, bytes]] = []
    with connection.makefile("rb") as stream:
        while len(pairs) < most and (line := stream.readline()):
            size = 0
            while (header := stream.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            pairs.append((int(line.split(b" ")[1]), stream.read(size)))
    return pairs


@contextmanager
def serving(
    folder: Path, loop: Callable[..., Any] = asyncio.run, app: Any = None
) -> Iterator[Listener]:
    with closing(Database.open(f"sqlite:///{folder / 'syncer.db'}", "queue")) as database:
        inbox = Inbox(database, 100_000)
        inbox.start(Supervisor())
        receiver = Receiver(inbox, (Caller("key", frozenset(SCOPES), KEY),), SECRET)
        listener = server.bind("127.0.0.1", 0)
        if app is not None:  # little room outside of this process
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        served, over = Listener(listener.getsockname()), Stop()

        def count(code: str) -> None:
            served.refused[code] += 1
            receiver.refused(code)

        def run() -> None:
            serves = app or receiver.app()
            loop(server.serve(serves, listener, over, on_refused=count))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield served
        finally:
            over.set()
            thread.join(20)
            inbox.stop()
            listener.close()
        assert not thread.is_alive()


def refusal(answer: tuple[int, bytes]) -> tuple[int, str]:
    said = orjson.loads(answer[1])
    assert said.keys() == {"success", "code", "message"}
    return answer[0], said["code"]
