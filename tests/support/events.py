"""Segment calls as their senders write them."""

from __future__ import annotations

import hashlib
import hmac
import time
import uuid
from datetime import UTC, datetime
from typing import Any

#: The secret that webhooks are signed with.
SECRET = "shared-webhook-secret-77"

Json = dict[str, Any]


def unique(what: str = "id") -> str:
    """A messageId or userId that no other test has."""
    return f"{what}-{uuid.uuid4().hex[:16]}"


def track(**more: Any) -> Json:
    return {"type": "track", "userId": "u1", "event": "Tested", "messageId": unique(), **more}


def engage_call(
    user: str, key: str, value: object, at: str, *, kind: str = "identify", what: str = "audience"
) -> Json:
    """What Engage sends when a user enters or leaves an audience."""
    field = "traits" if kind == "identify" else "properties"
    data = {key: value} if kind == "identify" else {key: value, "audience_key": key}
    return {
        "type": kind,
        "messageId": unique("personas"),
        "userId": user,
        "timestamp": at,
        "event": "Audience Entered",
        field: data,
        "context": {"personas": {"computation_class": what, "computation_key": key}},
    }


def sign(body: bytes, secret: str = SECRET) -> str:
    """The signature of a webhook's body."""
    return hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()


def ago(hours: float) -> str:
    """So many hours ago, as Segment writes it."""
    return written(time.time() - hours * 3600)


def written(seconds: float) -> str:
    """Seconds since 1970 as Segment writes them."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
