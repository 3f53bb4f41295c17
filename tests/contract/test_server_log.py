"""What the HTTP server has to say goes through our log, for the calls and for the page."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SERVE = """
import asyncio, signal, sys
from syncer import log
from syncer.process.server import bind, serve
from syncer.stop import Stop

async def broken(scope, receive, send):
    raise ZeroDivisionError("by \\x1b[31m nought")

log.set_up("json")
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a child of the daemon does
listener = bind("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
asyncio.run(serve(broken, listener, Stop()))
"""


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(request)
        return connection.recv(1000)


def test_only_our_lines_are_on_standard_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(3):
            assert b"400 Bad Request" in ask(port, b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert b"500 Internal" in ask(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        process.terminate()
        for _ in range(10):  # a signal to all of the daemon's processes does not end this one
            assert b"400 Bad Request" in ask(port, b"\x16\x03\x01 no HTTP\r\n\r\n")
            time.sleep(0.05)
        process.kill()
        _, said = process.communicate(timeout=30)
    # A stranger's garbage is no event: it would fill the log.
    (line,) = [json.loads(text_line) for text_line in said.splitlines()]
    assert (line["level"], line["logger"]) == ("error", "uvicorn.error")
    assert line["exception"].endswith("ZeroDivisionError: by \x1b[31m nought")
    assert "\x1b" not in said
