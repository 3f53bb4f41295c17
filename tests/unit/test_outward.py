"""Which way requests go out."""

from __future__ import annotations

import pytest

from syncer.egress import proxy

PROXY = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("https://app.amberflo.io/customers", {}, None),
        ("https://app.amberflo.io/customers", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://app.amberflo.io/customers", {"https_proxy": PROXY}, PROXY),
        ("https://app.amberflo.io/customers", {"HTTPS_PROXY": "proxy:3128"}, PROXY),
        ("https://app.amberflo.io/customers", {"HTTPS_PROXY": f" {PROXY}\n"}, PROXY),
        ("https://app.amberflo.io/customers", {"HTTP_PROXY": PROXY}, None),
        ("https://app.amberflo.io/customers", {"ALL_PROXY": PROXY}, PROXY),
        ("https://a.io", {"ALL_PROXY": PROXY, "https_proxy": "http://other"}, "http://other"),
        ("http://a.io", {"HTTP_PROXY": PROXY}, PROXY),
        ("http://a.io", {"HTTP_PROXY": PROXY, "REQUEST_METHOD": "GET"}, None),
        ("https://a.io", {"HTTPS_PROXY": PROXY, "NO_PROXY": "b.io,a.io"}, None),
        ("https://x.a.io", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.io"}, None),
        ("https://x.a.io", {"HTTPS_PROXY": PROXY, "no_proxy": ".a.io"}, None),
        ("https://xa.io", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.io"}, PROXY),
        ("https://a.io:8443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.io:443"}, PROXY),
        ("https://a.io:8443", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.io:8443"}, None),
        ("https://a.io", {"HTTPS_PROXY": PROXY, "NO_PROXY": "*"}, None),
        ("https://a.io", {"HTTPS_PROXY": PROXY, "NO_PROXY": " , b.io"}, PROXY),
        ("https://10.1.2.3", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, None),
        ("https://11.1.2.3", {"HTTPS_PROXY": PROXY, "NO_PROXY": "10.0.0.0/8"}, PROXY),
        ("http://127.0.0.1:80", {"HTTP_PROXY": PROXY}, None),
        ("http://[::1]:80", {"ALL_PROXY": PROXY}, None),
        ("http://localhost", {"ALL_PROXY": PROXY}, None),
    ],
)
def test_the_proxy_for_a_url(url: str, environ: dict[str, str], expected: str | None) -> None:
    assert proxy(url, environ) == expected
