"""What asks others goes by the proxy that the environment names, whoever it asks."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from pydantic import SecretStr

from state.db.database import Database
from syncer.amberflo.client import AmberfloClient
from syncer.config import AlertsConfig
from syncer.daemon.alerts import Alerts
from syncer.engage.public_api import PublicApi
from syncer.errors import SourceError, TryAgain


class Proxy(ThreadingHTTPServer):
    """Answers every request itself, with what was written or `{}`, and lets no tunnel through."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, str | None]] = []
        #: the headers of each request to open a tunnel: what is in them is not encrypted
        self.in_the_open: list[dict[str, str]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}"
        by = self.headers.get("proxy-authorization")
        self.server.seen.append((self.command, self.path, by))
        if self.command == "CONNECT":
            self.server.in_the_open.append({name.lower(): it for name, it in self.headers.items()})
        self.send_response(502 if self.command == "CONNECT" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_CONNECT = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """For both schemes, with a password."""
    with Proxy() as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for variable in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(variable, f"http://me:p%40ss@{server.address}")
        yield server
        server.shutdown()


BY = f"Basic {b64encode(b'me:p@ss').decode()}"


def test_amberflo(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "ingest.invalid")

    async def ask(scheme: str) -> None:
        url = f"{scheme}://amberflo.invalid/customers"
        async with AmberfloClient("key", customers_url=url, ingest_url="http://ingest.invalid") as (
            client
        ):
            assert await client.get_customer("u1") is None
            await client.put_customer({"customerId": "u1"})
            with pytest.raises(TryAgain, match=r"ingest\.invalid"):  # directly: nobody is there
                await client.ingest(b"")

    asyncio.run(ask("http"))
    assert proxy.seen == [
        ("GET", "http://amberflo.invalid/customers?customerId=u1", BY),
        ("PUT", "http://amberflo.invalid/customers", BY),
    ]
    with pytest.raises(TryAgain) as error:
        asyncio.run(ask("https"))
    assert "p@ss" not in str(error.value)
    assert "p%40ss" not in str(error.value)
    assert proxy.seen[2] == ("CONNECT", "amberflo.invalid:443", BY)
    assert "x-api-key" not in proxy.in_the_open[0]


def test_the_public_api(proxy: Proxy) -> None:
    api = PublicApi("token", "s", url="https://segment.invalid", sleep=lambda seconds: None)
    with pytest.raises(SourceError) as error:
        api.computations()
    assert "p@ss" not in str(error.value)
    assert "p%40ss" not in str(error.value)
    assert proxy.seen[0] == ("CONNECT", "segment.invalid:443", BY)
    assert "authorization" not in proxy.in_the_open[0]


def test_the_webhook_of_alerts(proxy: Proxy, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'syncer.db'}"
    settings = AlertsConfig(webhook=SecretStr("http://slack.invalid/hook"))
    with closing(Database.open(url)) as state, closing(Database.open(url, "queue")) as calls:
        channels = Alerts(state, calls, settings)._channels
        assert [*channels.send("text", channels.marks)] == channels.marks
    assert proxy.seen == [("POST", "http://slack.invalid/hook", BY)]
