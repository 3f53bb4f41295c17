"""The sample of a reverse proxy, docs/ops/nginx.conf, run by a real nginx in front of a daemon."""

from __future__ import annotations

import gzip
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.support.daemon import KEY, Daemon, daemon, taken
from tests.support.events import sign, unique
from tests.support.installation import installed
from tests.support.processes import free_port, wait_until

SAMPLE = Path(__file__).parents[2] / "docs" / "ops" / "nginx.conf"
CALLS, PAGE = "calls.example.com", "syncer.example.com"
TOKEN = "the-token-of-the-page-0"


def _program(name: str) -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        pytest.skip(f"a reverse proxy: {name} is missing")
    return path


class Proxy:
    """nginx, and clients that trust its certificates and find both names at its port."""

    def __init__(self, port: int, service: Daemon, trusted: ssl.SSLContext) -> None:
        self.port, self.daemon, self._trusted = port, service, trusted

    def ask(self, method: str, name: str, path: str, **more: Any) -> httpx.Response:
        headers = {"host": name, **more.pop("headers", {})}
        with httpx.Client(verify=self._trusted, trust_env=False, timeout=30) as client:
            return client.request(
                method,
                f"https://127.0.0.1:{self.port}{path}",
                headers=headers,
                extensions={"sni_hostname": name},
                **more,
            )

    def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        return self.ask("POST", CALLS, path, content=content, headers=headers, auth=(KEY, ""))


@contextmanager
def _nginx(folder: Path, ports: dict[str, str]) -> Iterator[None]:
    """nginx with the sample, where files and addresses are ours and all else as it stands there."""
    text = SAMPLE.read_text()
    for address, here in ports.items():
        assert address in text
        text = text.replace(address, here)
    for name in (CALLS, PAGE):
        make = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -addext".split()
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subprocess.run(
            [_program("openssl"), *make, f"subjectAltName=DNS:{name}", *files],
            check=True,
            capture_output=True,
        )
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi")
    )
    # As root, nginx works as somebody else, who may not enter the folder.
    user = "user root; " if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
        "events { worker_connections 256; }\n"
        f"http {{ access_log {folder}/access.log; uwsgi_temp_path {folder}/u; "
        f"scgi_temp_path {folder}/s; {temporary}\n{text}\n}}\n"
    )
    config = str(folder / "nginx.conf")
    process = subprocess.Popen(
        [_program("nginx"), "-p", str(folder), "-e", f"{folder}/error.log", "-c", config],
        stderr=subprocess.PIPE,
    )
    try:
        yield
    finally:
        process.terminate()
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said.decode()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    _program("nginx")
    folder, port, web = tmp_path_factory.mktemp("nginx"), free_port(), free_port()
    page = f'[web]\nlisten = "127.0.0.1:{web}"\ntoken = "{TOKEN}"\nhosts = ["{PAGE}"]\n'
    with (
        installed(tmp_path_factory.mktemp("behind")) as installation,
        daemon(installation, more=page, public_url=f"https://{CALLS}") as service,
        _nginx(
            folder,
            {
                "127.0.0.1:8400": service.url.removeprefix("http://"),
                "127.0.0.1:8401": f"127.0.0.1:{web}",
                "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
                "/etc/ssl": str(folder),
            },
        ),
    ):
        trusted = ssl.create_default_context()
        for name in (CALLS, PAGE):
            trusted.load_verify_locations(folder / f"{name}.pem")
        # The page's process starts beside the daemon, and nginx with neither.
        wait_until(lambda: _answers(port) and _answers(web), what="the proxy")
        yield Proxy(port, service, trusted)


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def test_calls_come_through(proxy: Proxy) -> None:
    first, other = unique(), unique()
    call = b'{"type": "track", "userId": "u1", "event": "Through", "messageId": "%s"}'
    taken(proxy.post("/v1/track", call % first.encode()))
    many = b'{"batch": [%s]}' % (call % other.encode())
    taken(proxy.post("/v1/batch/", gzip.compress(many), **{"content-encoding": "gzip"}))
    assert [record["meterApiName"] for record in proxy.daemon.records(first, other)] == [
        "Through",
        "Through",
    ]


@pytest.mark.parametrize("headers", [{}, {"upgrade": "h2c", "connection": "Upgrade"}])
def test_an_offer_of_another_protocol_does_no_harm(proxy: Proxy, headers: dict[str, str]) -> None:
    message_id = unique()
    call = b'{"userId": "u1", "event": "Offered", "messageId": "%s"}' % message_id.encode()
    taken(proxy.post("/v1/track", call, **headers))
    assert proxy.daemon.records(message_id)


def test_a_batch_as_large_as_segment_sends_comes_through(proxy: Proxy) -> None:
    events = [
        {"type": "track", "userId": "u1", "event": "Large", "properties": {"pad": "x" * 1900}}
        for _ in range(4000)
    ]
    body = orjson.dumps(events)
    assert len(body) > 7_500_000
    headers = {"x-signature": sign(orjson.dumps(events[0])), "content-type": "application/json"}
    taken(proxy.ask("POST", CALLS, f"/v1/webhook?key={KEY}", content=body, headers=headers))


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/", "/login"])
def test_nothing_but_calls_is_there_for_callers(proxy: Proxy, path: str) -> None:
    assert proxy.ask("GET", CALLS, path).status_code == 404


def test_mobile_sdks_are_told_the_public_address(proxy: Proxy) -> None:
    answer = proxy.ask("GET", CALLS, f"/v1/projects/{KEY}/settings")
    assert answer.json()["integrations"]["Segment.io"]["apiHost"] == f"{CALLS}/v1"


def test_the_page_knows_that_it_is_behind_tls(proxy: Proxy) -> None:
    answer = proxy.ask(
        "POST", PAGE, "/login", data={"token": TOKEN}, headers={"origin": f"https://{PAGE}"}
    )
    assert answer.status_code == 303, answer.text
    cookie = answer.headers["set-cookie"].lower()
    assert "secure" in cookie
    assert "httponly" in cookie
