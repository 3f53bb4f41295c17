"""What schemathesis needs to get into the receiver: a key, a webhook's signature, real gzip.

    SCHEMATHESIS_HOOKS=tests.support.schemathesis_hooks schemathesis run URL/openapi.json …

$KEY is the write key, $SECRET that of the webhook. Some requests come without them, and some that
say gzip are none, so that refusals are seen, too.
"""

from __future__ import annotations

import gzip
import os
import random

import schemathesis
from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from tests.support.events import sign

_KEY = HTTPBasicAuth(os.environ["KEY"], "")
_CHANCE = random.Random(0)


class _Sender(AuthBase):
    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        body = request.body or b""
        if not isinstance(body, bytes | str):
            return request  # a stream
        raw = body.encode() if isinstance(body, str) else body
        zips = request.headers.get("Content-Encoding", "").lower() == "gzip"
        if zips and _CHANCE.random() < 0.7:
            raw = gzip.compress(raw)
            request.prepare_body(raw, None)
        if "/v1/webhook" in str(request.url) and _CHANCE.random() < 0.95:
            request.headers["X-Signature"] = sign(raw, os.environ["SECRET"])
        return _KEY(request) if _CHANCE.random() < 0.95 else request


schemathesis.auth.set_from_requests(_Sender())
