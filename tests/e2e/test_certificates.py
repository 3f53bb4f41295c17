"""An Amberflo behind a certificate of one's own, as companies have that look into TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from syncer import egress
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


class _Nobody(BaseHTTPRequestHandler):
    """An Amberflo without a customer."""

    def do_GET(self) -> None:
        body = b'{"items": []}' if "/paging" in self.path else b"{}"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Its own authority; the key is in the same file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("certificates: openssl is missing")
    file = tmp_path / "amberflo.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=amberflo -addext"
    make = [*words.split(), "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [openssl, *make, "-keyout", file, "-out", file],
        check=True,
        capture_output=True,
    )
    return file


@pytest.fixture
def secure(installation: Installation, warehouse: Warehouse, certificate: Path) -> Iterator[str]:
    """The URL of Amberflo, to which the installation is configured."""
    warehouse.user("u1", vip="true")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Nobody) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_port}"
        installation.configure(customers_url=f"{url}/customers", patience="1s")
        yield url
        server.shutdown()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_certificates_of_the_environment_are_used(
    installation: Installation,
    secure: str,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    for name in egress.CERTIFICATES:
        monkeypatch.delenv(name, raising=False)
    refused = installation.run("check", exit_code=1)
    assert "certificate" in refused.stdout + refused.stderr
    monkeypatch.setenv(variable, str(certificate))
    assert f"the key is good at {secure}/customers" in installation.run("check").stdout
