"""What the tests of the receiver share."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from state import queue
from state.db.database import Database
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.processor import Processor
from syncer.passthrough.receiver import Receiver
from syncer.passthrough.scopes import SCOPES, Caller
from syncer.process.supervisor import Supervisor
from tests.support.daemon import KEY, Daemon, holds_secret
from tests.support.events import SECRET

PAYLOADS = json.loads(
    (Path(__file__).parents[2] / "unit" / "segment_payloads.json").read_text(encoding="utf-8")
)


SEED_TIME = "2021-04-26T14:01:46.909Z"


Json = dict[str, Any]


def keeps_no_secret(service: Daemon) -> None:
    files = [file for file in service.installation.folder.iterdir() if file.name != "config.toml"]
    assert {"syncer.db", "syncer-queue.db"} <= {file.name for file in files}
    assert [file.name for file in files if holds_secret(file.read_bytes())] == []
    assert not holds_secret("\n".join(service.log).encode())


def basic(text: str) -> Json:
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def inbox_of(service: Daemon) -> list[queue.InboxRow]:
    """What is accepted and not sorted yet, as it stands in the queue's file."""
    url = f"sqlite:///{service.installation.folder / 'syncer.db'}"
    with closing(Database.peek(url, "queue")) as database, database.read() as connection:
        return queue.unprocessed(connection, 1000)


@contextmanager
def stopped_worker(service: Daemon) -> Iterator[None]:
    """The worker process does nothing for this block."""
    service.settle()
    os.kill(service.worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(service.worker, signal.SIGCONT)


class Workbench:
    """The receiver's app, its inbox and the processor on real databases, in this process."""

    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'syncer.db'}"
        self.calls, self.state = Database.open(url, "queue"), Database.open(url)
        self.inbox = Inbox(self.calls, 10**9)
        self.inbox.start(Supervisor())
        self.app = Receiver(self.inbox, (Caller("key", frozenset(SCOPES), KEY),), SECRET).app()
        self.processor = Processor(self.calls, self.state, ["*"], ["value"])

    def request(self, method: str, path: str, content: bytes, headers: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(ask())

    def close(self) -> None:
        self.inbox.stop()
        self.calls.close()
        self.state.close()
