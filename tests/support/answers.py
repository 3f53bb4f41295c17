"""A server on loopback that answers with the bytes that a test says, be they HTTP or not."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Asked(NamedTuple):
    """A request as it came; the names of its headers in small letters."""

    method: str
    path: str
    body: bytes
    headers: dict[str, str]


#: The bytes to send before the connection is closed; none closes it at once.
Reply = Callable[[Asked], bytes]


def http(status: int, body: bytes = b"", *headers: str, size: int | None = None) -> bytes:
    """An answer; `size` is what it says of its body's length, where that is not true."""
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if size is None else size}"]
    return (
        "\r\n".join([*head, "Connection: close", *headers, "", ""]).encode(
            "utf-8", "surrogateescape"
        )
        + body
    )


@contextmanager
def answering(reply: Reply) -> Iterator[tuple[str, list[Asked]]]:
    """Serve; gives the URL, and what was asked."""
    asked: list[Asked] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().decode().split()
            headers = {}
            while header := self.rfile.readline().strip():
                name, _, value = header.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            if len(line) < 2:
                return
            size = int(headers.get("content-length", 0))
            request = Asked(line[0], line[1], self.rfile.read(size), headers)
            asked.append(request)
            self.wfile.write(reply(request))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()
            thread.join()
