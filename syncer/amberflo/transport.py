"""The transport of requests to Amberflo: aiohttp, by the way out that the environment names."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import aiohttp
import certifi

from syncer import egress


class _Way(NamedTuple):
    """How requests go out: the connections, the headers of each request, those for the proxy."""

    session: aiohttp.ClientSession
    headers: Mapping[str, str] | None
    proxy_headers: Mapping[str, str] | None


class Transport:
    """Sends requests with `headers` and returns the answers as they are.

    It follows no redirect, keeps no cookie, unpacks no body and has no timeout. At most
    `connections` requests at a time go by each proxy, and as many directly. Make and use it in one
    event loop.
    """

    def __init__(self, headers: Mapping[str, str], connections: int) -> None:
        self._headers = headers
        self._connections = connections
        self._certificates = egress.certificates() or _usual_certificates()
        self._by_path: dict[str, _Way] = {}
        self._by_proxy: dict[str | None, _Way] = {}

    async def request(
        self,
        method: str,
        url: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> aiohttp.ClientResponse:
        """Return the answer to a request, its body unread; release it with `async with`.

        `headers` are sent beside those of every request. Raises aiohttp.ClientError or OSError if
        no answer comes.
        """
        path = url.partition("?")[0]
        if (way := self._by_path.get(path)) is None:
            way = self._by_path[path] = self._by(egress.proxy(url))
        return await way.session.request(
            method,
            url,
            headers=way.headers if headers is None else {**(way.headers or {}), **headers},
            data=content,
            allow_redirects=False,
            proxy_headers=way.proxy_headers,
        )

    def _by(self, proxy: str | None) -> _Way:
        if proxy not in self._by_proxy:
            address, proxy_headers = (None, None) if proxy is None else _of_proxy(proxy)
            # aiohttp sends what a session has as its default to the proxy, too.
            default, each = (self._headers, None) if proxy is None else (None, self._headers)
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._connections, keepalive_timeout=30.0, ssl=self._certificates
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(),
                auto_decompress=False,
                proxy=address,
                headers=default,
            )
            self._by_proxy[proxy] = _Way(session, each, proxy_headers)
        return self._by_proxy[proxy]

    async def close(self) -> None:
        """Close all connections."""
        for way in self._by_proxy.values():
            await way.session.close()


def _of_proxy(url: str) -> tuple[str, Mapping[str, str] | None]:
    """Return the address of a proxy, and its user and password as a header.

    aiohttp sends that header to the proxy alone.
    """
    parts = urlsplit(url)
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if parts.username is None and parts.password is None:
        return address, None
    words = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
    return address, {"authorization": f"Basic {b64encode(words.encode()).decode()}"}


@cache
def _usual_certificates() -> ssl.SSLContext:
    """Return the certificates that httpx trusts too."""
    return ssl.create_default_context(cafile=certifi.where())
