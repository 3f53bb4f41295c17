"""Processes of the product that go on step by step: a receiver, a run, an approval, a delivery."""

from __future__ import annotations

import asyncio
import os
import select
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvloop

from state.db import workers
from state.db.database import Database
from state.db.workers import Worker
from syncer.app import App
from syncer.config import Config
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.receiver import Receiver
from syncer.passthrough.scopes import SCOPES, Caller
from syncer.process.supervisor import Supervisor
from syncer.progress import LineProgress

from . import points
from .fork import Child, fork

#: Seconds in which a process must come to its next point, or end.
BOUND = 40.0
KEY = "write-key"

#: What a process does: it gets what asks whether to stop.
Work = Callable[[Callable[[], bool]], None]


class Halts:
    """In a process: it waits at each of these points, in this order, until it is let go on.

    Behind the last one it waits for nobody, and is asked to stop.
    """

    def __init__(self, names: Sequence[str], lifeline: int, tell: int) -> None:
        self._names, self._lifeline, self._tell = list(names), lifeline, tell
        self._waiting = threading.Lock()

    def over(self) -> bool:
        return not self._names

    def reached(self, name: str, _hit: int) -> None:
        # Other threads go on meanwhile: they may be in a transaction.
        if self._names[:1] != [name] or not self._waiting.acquire(blocking=False):
            return
        try:
            del self._names[0]
            os.write(self._tell, b".")
            if self._names and not os.read(self._lifeline, 1):
                os._exit(1)  # who would let it go on is gone
        finally:
            self._waiting.release()


@dataclass
class Part:
    """A process that waits at a point; `ahead` are those that it comes to from there."""

    what: str
    child: Child
    ahead: list[str]

    @classmethod
    def begin(cls, what: str, log: Path, names: Sequence[str], work: Work) -> Part:
        """Begin a process, and let it come to the first of these points."""

        def go(lifeline: int, tell: int) -> int:
            halts = Halts(names, lifeline, tell)
            points.patch(halts.reached)
            work(halts.over)
            return 0

        part = cls(what, fork(what, log, go), list(names))
        part._await_halt()
        return part

    def go_on(self) -> None:
        """Let it go on to its next point."""
        assert self.child.lifeline is not None
        os.write(self.child.lifeline, b".")
        self._await_halt()

    def finish(self) -> None:
        """Let it go on past its last point, and end."""
        while self.ahead:
            self.go_on()
        assert self.child.wait(BOUND), self._said("does not end")
        assert self.child.status == 0, self._said("broke")
        self._close()

    def kill(self) -> None:
        self.child.kill()
        self._close()

    def _close(self) -> None:
        self.child.let_end()
        os.close(self.child.told)

    def _await_halt(self) -> None:
        ready, _, _ = select.select([self.child.told], [], [], BOUND)
        if not (ready and os.read(self.child.told, 1)):
            self.child.kill()
            raise AssertionError(self._said(f"does not come to {self.ahead[0]}"))
        del self.ahead[0]

    def _said(self, what: str) -> str:
        return f"{self.what} {what}: {self.child.log.read_text()}"


@dataclass
class Parts:
    """What of the product plays along, with its config; nothing of it stays open."""

    config: Config
    progress: LineProgress = field(default_factory=lambda: LineProgress(lambda line: None))

    def receive(self, body: dict[str, Any]) -> int:
        """Take a batch as the receiver does; gives the status of its answer."""
        with self._app().queue(writes=True) as calls:
            return asyncio.run(self._answer(calls, body))

    async def _answer(self, calls: Database, body: dict[str, Any]) -> int:
        inbox = Inbox(calls, 1000)
        inbox.start(Supervisor())
        try:
            app = Receiver(inbox, (Caller("key", frozenset(SCOPES), KEY),), None).app()
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://receiver"
            ) as client:
                answer = await client.post("/v1/batch", json={"writeKey": KEY, **body})
            return answer.status_code
        finally:
            inbox.stop()

    def process(self) -> None:
        """Process the oldest requests of the inbox."""
        app = self._app()
        with app.queue(writes=True) as calls, app.state(writes=True) as state:
            app.processor(calls, state).process()

    def run(self, stop: Callable[[], bool], *, full: bool) -> None:
        with self._app(stop).runs() as maker:
            maker.sync(full=full)

    def approve(self, stop: Callable[[], bool], run: int) -> None:
        with self._app(stop).runs() as maker:
            maker.approve(run)

    def reject(self, run: int) -> None:
        with self._app().runs() as maker:
            maker.reject(run)

    def deliver(self, stop: Callable[[], bool]) -> None:
        """Deliver as the worker does, until nothing is due or it is asked to stop."""
        app = self._app(stop)

        async def delivered(state: Database, worker: Worker, account: str | None) -> None:
            async with app.client() as client:
                await app.customer_delivery(state, worker, client, account).run()

        self.bury()
        with app.state(writes=True) as state:
            account = app.account(state).check()
            with workers.register(state, "worker") as worker:
                uvloop.run(delivered(state, worker, account))

    def bury(self) -> None:
        """Free what dead workers claimed, as whoever delivers next does."""
        with self._app().state(writes=True) as state:
            workers.prune_dead(state)

    def _app(self, stop: Callable[[], bool] = lambda: False) -> App:
        return App(self.config, self.progress, stop)
