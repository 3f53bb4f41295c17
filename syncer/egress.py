"""Outgoing requests: the proxy and the certificates that the environment names.

Requests to a loopback address go there directly.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, build_opener

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


def opener(url: str) -> OpenerDirector:
    """Return an opener for a URL, with the proxy and the certificates of the environment."""
    proxy_url = proxy(url)
    proxies = {} if proxy_url is None else {urlsplit(url).scheme: proxy_url}
    return build_opener(ProxyHandler(proxies), HTTPSHandler(context=certificates()))
