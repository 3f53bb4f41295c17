"""An Amberflo that costs next to nothing: what it answers depends on the request alone.

A raw asyncio protocol in a process of its own, so that a benchmark measures the one who asks. GET
of a customer answers that nobody has it, a PUT what it put, a page of customers is empty, and of
meter records it says how many came. It checks no key, keeps nothing, and has one HTTP/1.1 request
at a time on each connection.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import uvloop

_LENGTH = b"content-length: "
_EMPTY_PAGE = b'{"items":[],"totalItems":0}'


def answer_with(body: bytes) -> bytes:
    """Return the answer 200 with a body of JSON."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _ingested(body: bytes) -> bytes:
    records = zlib.decompress(body, wbits=31).count(b'"uniqueId":')
    return answer_with(b"%d records were ingested" % records)


_NOBODY, _NO_PAGE = answer_with(b"{}"), answer_with(_EMPTY_PAGE)


class Target(asyncio.Protocol):
    """One connection; each answer comes `delay` seconds after its request."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._received = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data if self._received else data
        end = received.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        if received.startswith(b"GET "):
            answer = self.read(received[4 : received.index(b" ", 4)])
        else:
            head = received[:end].lower()
            start = head.index(_LENGTH) + len(_LENGTH)
            size = int(head[start : head.index(b"\r", start)])
            if len(received) < end + size:
                return
            body = received[end:]
            answer = self.taken(received[: received.index(b" ", 6)], body)
        self._received = b""
        if self._delay:
            self._loop.call_later(self._delay, self._transport.write, answer)
        else:
            self._transport.write(answer)

    def read(self, path: bytes) -> bytes:
        """Answer a GET."""
        return _NO_PAGE if b"/paging" in path else _NOBODY

    def taken(self, what: bytes, body: bytes) -> bytes:
        """Answer a write; `what` is its method and path."""
        return _ingested(body) if what == b"POST /ingest" else answer_with(body)


async def serve(delay: float, protocol: Callable[[float], Target] = Target) -> None:
    """Serve on a free port, which is printed, until the standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(delay), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


@contextmanager
def target(delay: float = 0.0, module: str = "benchmarks.target") -> Iterator[str]:
    """Serve a module in a process of its own; yield the URL."""
    program = [sys.executable, "-m", module, "--delay", str(delay)]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def main(protocol: Callable[[float], Target] = Target) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    uvloop.run(serve(parser.parse_args().delay, protocol))


if __name__ == "__main__":
    main()
