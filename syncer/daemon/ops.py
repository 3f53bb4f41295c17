"""Health and metrics, on a listener and in a thread of their own.

So the load of the receiver does not keep an orchestrator or Prometheus waiting.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import uvloop
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from syncer.process.limits import DRAIN_TIMEOUT
from syncer.process.server import serve
from syncer.process.supervisor import Part, Problems, Supervisor
from syncer.process.unexpected import way_to, what_happened
from syncer.stop import Stop

#: The most connections at a time.
CONNECTIONS = 100
#: Seconds without a beat of the receiver's event loop after which it counts as hanging.
HANGS_AFTER = 30.0


class Ops:
    """Serves `/healthz`, `/readyz` and `/metrics`.

    `problem` returns in few words what keeps the service from working, or None; details are in the
    log. The receiver's event loop calls `beat`. `unreadable` gets why there are no metrics.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        problem: Callable[[], str | None],
        unreadable: Problems,
    ) -> None:
        self._registry, self._problem, self._unreadable = registry, problem, unreadable
        self._last_beat = time.monotonic()
        self._stopping = Stop()
        self._part: Part | None = None

    def beat(self) -> None:
        self._last_beat = time.monotonic()

    def start(self, listener: socket.socket, supervisor: Supervisor) -> None:
        """Serve on a listening socket, in a thread."""

        def work(part: Part) -> None:
            # The server closes what it gets, and it may have to be started again.
            served = serve(
                self, listener.dup(), self._stopping, connections=CONNECTIONS, on_tick=part.well
            )
            uvloop.run(served)

        self._part = supervisor.start("ops", work)

    def stop(self) -> None:
        """Stop serving, after the requests under way."""
        if self._part is not None:
            self._part.ask_to_end()
            self._stopping.set()
            self._part.join(DRAIN_TIMEOUT + 2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        routes: dict[str, Callable[[], Response]] = {
            "/healthz": self._healthy,
            "/readyz": self._ready,
            "/metrics": self._metrics,
        }
        answer = routes.get(scope["path"])
        if answer is None:
            response = _text("try /healthz, /readyz or /metrics\n", 404)
        elif scope["method"] not in ("GET", "HEAD"):
            response = _text("only GET is allowed\n", 405)
        else:
            # In a thread: it may query the database.
            response = await asyncio.to_thread(answer)
        await response(scope, receive, send)

    def _hangs(self) -> bool:
        return time.monotonic() - self._last_beat > HANGS_AFTER

    def _healthy(self) -> Response:
        return _text("calls are not taken\n", 503) if self._hangs() else _text("alive\n")

    def _ready(self) -> Response:
        problem = "calls are not taken" if self._hangs() else self._problem()
        return _text("ready\n") if problem is None else _text(f"{problem}\n", 503)

    def _metrics(self) -> Response:
        try:
            text = generate_latest(self._registry)
        except Exception as error:  # noqa: BLE001 - such as a database that cannot be read
            self._unreadable(what_happened(error), way_to(error))
            return _text("the database does not answer\n", 503)
        self._unreadable(None)
        return Response(text, media_type=CONTENT_TYPE_LATEST.partition(";")[0])


def _text(text: str, status: int = 200) -> Response:
    return Response(text.encode(), status_code=status, media_type="text/plain")
