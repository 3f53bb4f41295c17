"""The way out: the proxy and the certificates that the environment names, for all that asks others.

A loopback address is always asked directly.
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

#: Variables that name a file or folder of certificates to trust instead of the usual ones; the
#: first that is set holds.
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def check(environ: Mapping[str, str]) -> None:
    """Raises what is wrong with what the environment names."""
    for scheme in ("https", "http"):
        proxy(f"{scheme}://example.com", environ)
    certificates(environ)


def proxy(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The URL of the proxy for requests to a URL; None: they go there directly."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    left_out = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if _is_loopback(host) or any(
        _covers(entry.strip().lower(), host, parts.port) for entry in left_out.split(",")
    ):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            # A web server gives a caller's header `Proxy` to what it runs as HTTP_PROXY.
            by_caller = variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ
            found = environ.get(variable, "").strip()
            if found and not by_caller:
                return _proxy_url(variable, found)
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY is about a host: its name, a domain that it is in, with or
    without its port, a network of its address, or all there are."""
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
            f"{variable}: this is no proxy that can be used; write for example "
            "http://proxy.example.com:3128, or unset it"
        )
    return url


def certificates(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """What servers' certificates are checked against; None: nothing is named, the usual ones."""
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
        reason = "there is no certificate in it"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise ConfigError(
        f"{variable}: {path} cannot be used ({reason}); name a PEM file with the certificates "
        "to trust, or unset it"
    )


def opener(url: str) -> OpenerDirector:
    """What opens a URL the way the environment says."""
    found = proxy(url)
    proxies = {} if found is None else {urlsplit(url).scheme: found}
    return build_opener(ProxyHandler(proxies), HTTPSHandler(context=certificates()))
