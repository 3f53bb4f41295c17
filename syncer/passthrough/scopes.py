"""Callers by their keys, and the scopes that say what each may send. Pure.

A key without scopes of its own (such as a browser's, which is public) may page, screen, track and
identify. A call of Engage needs a key with the scope `memberships`, or Segment's webhook with a
valid signature. A delete needs that signature.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

#: The route of Segment's webhook destination, and the name of its caller.
WEBHOOK = "webhook"

MEMBERSHIPS, DELETE = "memberships", "delete"
#: The scopes of a key that names none, and all that a key may name.
DEFAULT_SCOPES = ("page", "screen", "track", "identify")
SCOPES = (*DEFAULT_SCOPES, MEMBERSHIPS)

#: Why a call is dropped, by the scope that its caller lacks.
NOT_ALLOWED = {scope: f"its key may not {scope}" for scope in DEFAULT_SCOPES} | {
    MEMBERSHIPS: "its key may not send memberships",
    DELETE: "a delete needs the webhook's signature",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: its scopes, and the short name of its key, which programs show.

    `key` itself shows in no text.
    """

    name: str
    may: frozenset[str]
    key: str = field(default="", repr=False)

    @property
    def scopes(self) -> str:
        """The scopes as the inbox stores them with a request."""
        return ",".join(sorted(self.may))


#: Segment, by a valid signature.
SIGNED = Caller(WEBHOOK, frozenset((*SCOPES, DELETE)))


def short_name(key: str) -> str:
    """Return the name of a key that the config gives none: always the same for the same key.

    It shows 24 bits of a hash, from which nobody can compute the key.
    """
    return f"key-{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def find(callers: Iterable[Caller], key: str | None) -> Caller | None:
    """Return the caller with this write key; a blank key belongs to none.

    The comparison takes constant time and goes through all callers.
    """
    match: Caller | None = None
    offered = (key or "").encode("utf-8", "surrogatepass")
    for caller in callers:
        if hmac.compare_digest(caller.key.encode("utf-8", "surrogatepass"), offered) and caller.key:
            match = caller
    return match


def allowed(path: str, scopes: str) -> Collection[str]:
    """Return the scopes of a stored request: `path` is its route, `scopes` the text stored with it.

    Requests that an older program stored have no scopes. That program let all calls in, but deletes
    only by the webhook.
    """
    if scopes:
        return scopes.split(",")
    return SIGNED.may if path == WEBHOOK else SCOPES
