"""Runs a stand-in in a thread of the program that uses it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol


class StandIn(Protocol):
    """A stand-in that can be served."""

    async def start(self, host: str, port: int) -> str:
        """Listen, and return the base URL; raise `OSError` if the port is in use."""

    async def stop(self) -> None:
        """Close the listener and every connection."""


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
