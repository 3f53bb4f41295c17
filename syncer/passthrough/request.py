"""An HTTP request as the receiver sees it: headers, the body within its limits, and refusals."""

from __future__ import annotations

import base64
import zlib
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

#: Members that a gzip body may have, and bytes that are unzipped at a time.
MAX_MEMBERS, UNZIPPED = 64, 1024 * 1024
#: How long a caller waits before it sends a refused request again.
RETRY_LATER = {"retry-after": "30"}


class Refusal(Exception):
    """A request that is refused: the status, code, message and further headers of the answer."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers or {}


class Request:
    """One request: its method, its path, and what the receiver asks of it."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        #: the parts of the path, which may have more slashes at its end and between the parts
        self.path = [part for part in scope["path"].split("/") if part]
        self._scope, self._receive = scope, receive
        #: the connection of our own server, if that serves the app (process/server.py)
        self._connection = scope.get("state", {}).get("connection")

    def header(self, name: bytes) -> bytes:
        """Return the first value of a header; b"" if the request has none."""
        for header, value in self._scope["headers"]:
            if header == name:
                return bytes(value)
        return b""

    def query(self, name: str) -> str | None:
        """Return the last value of a parameter of the query."""
        pairs = parse_qsl(self._scope["query_string"].decode("latin-1"), keep_blank_values=True)
        return dict(pairs).get(name)

    def mark_known(self) -> None:
        """Tell the server that the caller has a key.

        If there is no room for all requests, those of unknown callers go first.
        """
        if self._connection is not None:
            self._connection.known = True

    def check_wanted(self) -> None:
        """Raise `ClientDisconnect` if nobody waits for the answer any more."""
        if self._connection is not None and self._connection.lost:
            raise ClientDisconnect

    def charge(self, size: int) -> None:
        """Count `size` more bytes than it sent as held by the request until its answer."""
        if size > 0 and self._connection is not None and not self._connection.charge(size):
            busy = "too many requests at the same time; send it again later"
            raise Refusal(503, "busy", busy, RETRY_LATER)

    async def body(self, limit: int) -> bytes:
        """Return the body as it came. (The server bounds the time.)"""
        chunks, size = [], 0
        if self.header(b"content-length").isdigit():
            self._check_size(int(self.header(b"content-length")), limit)
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            self._check_size(size, limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def drop_body(self, limit: int) -> None:
        """Read the body and keep nothing of it."""
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
            self._check_size(size, limit)

    def _check_size(self, size: int, limit: int) -> None:
        if size > limit:
            raise _too_large(limit)

    def check_method(self, *methods: str) -> None:
        """Raise `Refusal` unless the method is one of these."""
        if self.method not in methods:
            message = f"this path takes {methods[0]} only"
            allow = ", ".join((*methods, "OPTIONS"))
            raise Refusal(405, "unknown_method", message, {"allow": allow})

    def is_zipped(self) -> bool:
        """Return whether the body is gzip; raise `Refusal` for any other encoding."""
        encoding = self.header(b"content-encoding").strip().lower()
        if encoding not in (b"", b"identity", b"gzip", b"x-gzip"):
            raise Refusal(415, "unknown_encoding", "the only content-encoding taken is gzip")
        return encoding.endswith(b"gzip")

    def basic_user(self) -> str | None:
        """Return the user name of Basic authorization: `base64(key:)`, maybe without the colon."""
        scheme, _, text = self.header(b"authorization").partition(b" ")
        if scheme.lower() != b"basic":
            return None
        try:
            return base64.b64decode(text.strip()).decode().partition(":")[0]
        except ValueError:  # not base64, not ASCII, not UTF-8
            return None


def unzipped(raw: bytes, limit: int) -> bytes:
    """Return the content of a gzip body: all its members (RFC 1952, 2.2). Zeros may follow them."""
    parts, size, rest = list[bytes](), 0, raw
    for _ in range(MAX_MEMBERS):
        unzip = zlib.decompressobj(wbits=31)
        while not unzip.eof:
            try:
                part = unzip.decompress(rest, UNZIPPED)
            except zlib.error:
                raise Refusal(400, "malformed", "the body is not gzip") from None
            if not part and not unzip.eof:
                raise Refusal(400, "malformed", "the gzip body ends early")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            rest = unzip.unconsumed_tail
        rest = unzip.unused_data.lstrip(b"\0")
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise Refusal(400, "malformed", f"the gzip body has more than {MAX_MEMBERS} members")


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is larger than {limit // 1024} KB")
