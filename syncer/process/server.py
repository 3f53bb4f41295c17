"""Serve an ASGI app over HTTP in this process until told to stop, within limits.py."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import uvicorn

from syncer.errors import ConfigError
from syncer.process import limits
from syncer.process.pool import Pool
from syncer.process.protocol import LimitedProtocol
from syncer.stop import Stop

#: Seconds between two looks at the connections, and between two signs of life where there is none.
#: No limit is shorter than that, and the `date` of answers is as old at most.
TICK, IDLE_TICK = 0.1, 1.0


def bind(host: str, port: int, setting: str = "passthrough.listen") -> socket.socket:
    """Return a listening socket; raises `ConfigError` if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, the event loop turns Nagle's algorithm off: it delays by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"{setting}: cannot listen on {host}:{port}: {error.strerror}; free it or name another"
        ) from None
    return listener


def allowed(connections: int) -> int:
    """Raise the limit of open files as far as allowed; return how many connections it permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + limits.OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(min(connections, soft - limits.OTHER_FILES), 1)


class _Server(uvicorn.Server):
    """uvicorn's server, without what `serve` does in its place.

    It leaves signals to its process: a child of the daemon ignores them. And it does not look ten
    times a second whether to exit.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._exiting = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def main_loop(self) -> None:
        await self._exiting.wait()

    def exit(self) -> None:
        """Let requests under way end, and return."""
        self.should_exit = True
        self._exiting.set()


async def serve(
    app: Any,
    listener: socket.socket,
    stop: Stop,
    *,
    connections: int | None = None,
    on_refused: Callable[[str], None] = lambda code: None,
    on_tick: Callable[[], object] = lambda: None,
    on_stop: Callable[[], object] = lambda: None,
) -> None:
    """Serve until the stop, then let requests under way end.

    `on_refused` gets the code of each request that is refused before the app sees it. `on_tick` is
    called every second at least: the event loop does not hang. `on_stop` is called when requests
    under way begin to end, and may be called again.
    """
    pool = Pool(allowed(connections or limits.CONNECTIONS), on_refused)
    config = uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", partial(LimitedProtocol, pool=pool)),
        interface="asgi3",
        ws="none",
        lifespan="off",
        proxy_headers=False,
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        timeout_graceful_shutdown=limits.DRAIN_TIMEOUT,
    )
    config.load()
    server, loop = _Server(config), asyncio.get_running_loop()
    serving = asyncio.create_task(server.serve([listener]))
    stopping = asyncio.create_task(stop.made())
    try:
        while not serving.done():
            on_tick()
            if stop():
                server.exit()
                on_stop()
            await server.on_tick(0)  # it writes the `date` of answers
            pool.enforce_timeouts(loop.time())
            await asyncio.wait(
                [serving] if server.should_exit else [serving, stopping],
                timeout=TICK if pool.members or server.should_exit else IDLE_TICK,
                return_when=asyncio.FIRST_COMPLETED,
            )
        serving.result()
    finally:  # also where `on_tick` fails: its connections end with it
        server.force_exit = True
        server.exit()
        stopping.cancel()
        await asyncio.wait([serving, stopping])
