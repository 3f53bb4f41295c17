"""Outgoing requests: the proxy and the certificates that the environment names.

Requests to a loopback address go there directly.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse
from ipaddress import ip_address, ip_network
from pathlib import Path
from threading import Event, Timer
from typing import Any
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from syncer.errors import ConfigError
from syncer.input_text import has_valid_host

#: Variables that name a file or folder of certificates to trust instead of the usual ones. The
#: first one that is set counts.
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def check(environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` if the environment names a proxy or certificates that cannot work."""
    for scheme in ("https", "http"):
        proxy(f"{scheme}://example.com", environ)
    certificates(environ)


def proxy(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the URL of the proxy for requests to a URL; None if they go there directly."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    exceptions = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if _is_loopback(host) or any(
        _covers(entry.strip().lower(), host, parts.port) for entry in exceptions.split(",")
    ):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            # A CGI server puts a client's header `Proxy` into HTTP_PROXY.
            from_client = variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ
            value = environ.get(variable, "").strip()
            if value and not from_client:
                return _proxy_url(variable, value)
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Return whether an entry of NO_PROXY covers a host.

    An entry is the host's name or a domain above it, with or without its port, a network that its
    address is in, or "*" for all hosts.
    """
    if entry == "*":
        return True
    with suppress(ValueError):
        return ip_address(host) in ip_network(entry, strict=False)
    name, _, its_port = entry.partition(":")
    name = name.lstrip(".")
    if not name or (its_port and its_port != str(port)):
        return False
    return host == name or host.endswith(f".{name}")


def _proxy_url(variable: str, text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    if not (re.fullmatch(r"https?://[^/\s?#]+/?", url) and has_valid_host(url)):
        raise ConfigError(  # without its value: it may hold a password
            f"{variable}: this is not the URL of a proxy; write for example "
            "http://proxy.example.com:3128, or unset it"
        )
    return url


def certificates(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """Return what to check servers' certificates against; None for the usual authorities."""
    for variable in CERTIFICATES:
        if environ.get(variable, "").strip():
            return _trusting(variable, Path(environ[variable].strip()))
    return None


def _trusting(variable: str, path: Path) -> ssl.SSLContext:
    try:
        if path.is_dir() and variable != "SSL_CERT_FILE":
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        reason = "it has no certificate"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ConfigError(
        f"{variable}: {path} cannot be used ({reason}); name a PEM file with the certificates "
        "to trust, or unset it"
    )


@contextmanager
def answer(request: Request, seconds: float) -> Iterator[HTTPResponse]:
    """Send a request with the proxy and the certificates of the environment; yield the answer.

    No redirect is followed: it is an answer, too. After `seconds` the connection is cut, however
    slowly the answer drips in; that raises TimeoutError, be what came whole or not.
    """
    url, sockets, over = request.full_url, list[socket.socket](), Event()
    proxy_url = proxy(url)
    proxies = {} if proxy_url is None else {urlsplit(url).scheme: proxy_url}
    opener = build_opener(
        ProxyHandler(proxies),
        _Http(sockets),
        _Https(sockets, certificates()),
        _NoRedirect(),
    )
    timer = Timer(seconds, _cut, (sockets, over))
    timer.start()
    try:
        with opener.open(request, timeout=seconds) as response:
            yield response
    finally:
        timer.cancel()
    if over.is_set():
        raise TimeoutError


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class _Http(HTTPHandler):
    """Keeps the sockets that it opens."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._sockets = sockets

    def do_open(self, http_class: Any, req: Request, **options: Any) -> HTTPResponse:
        return super().do_open(_keeping(http_class, self._sockets), req, **options)


class _Https(HTTPSHandler):
    """Keeps the sockets that it opens."""

    def __init__(self, sockets: list[socket.socket], context: ssl.SSLContext | None) -> None:
        super().__init__(context=context)
        self._sockets = sockets

    def do_open(self, http_class: Any, req: Request, **options: Any) -> HTTPResponse:
        return super().do_open(_keeping(http_class, self._sockets), req, **options)


def _keeping(
    http_class: Callable[..., HTTPConnection], sockets: list[socket.socket]
) -> Callable[..., HTTPConnection]:
    """Return a maker of connections whose sockets, once connected, are added to the list."""

    def make(host: str, **options: Any) -> HTTPConnection:
        connection = http_class(host, **options)
        connect = connection.connect

        def connect_and_keep() -> None:
            connect()
            sockets.append(connection.sock)

        connection.connect = connect_and_keep  # type: ignore[method-assign]
        return connection

    return make


def _cut(sockets: list[socket.socket], over: Event) -> None:
    over.set()
    for connection in sockets:
        with suppress(OSError):  # it is closed already
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # also where TLS has it
