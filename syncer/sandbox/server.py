"""A stand-in on HTTP, and a thread of the program that uses it to run it in."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import ClassVar

from aiohttp import web


class StandIn(ABC):
    """A stand-in on HTTP, which `_serve` answers; what it knows stays when it stops."""

    #: whether a body comes unzipped
    UNZIPS: ClassVar[bool] = True
    _runner: web.ServerRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and return the base URL.

        Raise `OSError` if the port is in use, `RuntimeError` if it listens already.
        """
        if self._runner is not None:
            raise RuntimeError("the sandbox is running already")
        server = web.Server(self._serve, access_log=None, auto_decompress=self.UNZIPS)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        self._runner = runner
        bound = runner.addresses[0][1]
        return f"http://[{host}]:{bound}" if ":" in host else f"http://{host}:{bound}"

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @abstractmethod
    async def _serve(self, request: web.BaseRequest) -> web.Response:
        """Answer a request."""


@contextmanager
def running(sandbox: StandIn, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Run it in a thread with an event loop of its own, yield its base URL, stop it at the end."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        try:
            url = await sandbox.start(host, port)
        except (OSError, RuntimeError) as error:  # the port is in use, or it runs already
            started.set_exception(error)
            return
        started.set_result((url, asyncio.get_running_loop(), stop))
        await stop.wait()
        await sandbox.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        finally:
            started.cancel()  # has no effect once it has a result

    thread = threading.Thread(target=run, name="sandbox", daemon=True)
    thread.start()
    try:
        url, loop, stop = started.result()
    except BaseException:
        thread.join()
        raise
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
