"""The transport of requests to Amberflo: aiohttp's, by the way out that the environment names."""

from __future__ import annotations

from base64 import b64encode

import httpx
from httpx_aiohttp import AiohttpTransport

from syncer import egress


class Transport(httpx.AsyncBaseTransport):
    """Plain `httpx` is quadratic in its connections (docs/design.md §7), so requests go
    through aiohttp; that alone would know of no proxy. At most `connections` at a time go by each
    proxy, and as many directly."""

    def __init__(self, connections: int) -> None:
        self._limits = httpx.Limits(max_connections=connections, keepalive_expiry=30.0)
        self._certificates = egress.certificates() or True
        self._by_host: dict[bytes, AiohttpTransport] = {}
        self._by_proxy: dict[str | None, AiohttpTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.netloc
        if host not in self._by_host:
            self._by_host[host] = self._by(egress.proxy(str(request.url)))
        return await self._by_host[host].handle_async_request(request)

    def _by(self, proxy: str | None) -> AiohttpTransport:
        if proxy not in self._by_proxy:
            self._by_proxy[proxy] = AiohttpTransport(
                limits=self._limits,
                verify=self._certificates,
                trust_env=False,
                proxy=None if proxy is None else _for_aiohttp(proxy),
            )
        return self._by_proxy[proxy]

    async def aclose(self) -> None:
        for transport in self._by_proxy.values():
            await transport.aclose()


def _for_aiohttp(proxy: str) -> httpx.Proxy:
    """A proxy whose user and password go as the header by which aiohttp takes them."""
    found = httpx.Proxy(proxy)
    if found.auth is None:
        return found
    words = b64encode(":".join(found.auth).encode()).decode()
    return httpx.Proxy(found.url, headers={"authorization": f"Basic {words}"})
