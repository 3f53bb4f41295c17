"""Who may say what: callers by their keys, and what a call needs that its caller may. Pure.

A bare key (such as a browser's, which is public) may page, screen, track and identify. What Engage
says comes by a key that may `memberships`, or by Segment's webhook with a good signature; a delete
by that webhook alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from syncer.passthrough.call import WEBHOOK, Call

MEMBERSHIPS, DELETE = "memberships", "delete"
#: What a key without a scope of its own may; and what a scope may name.
BARE = ("page", "screen", "track", "identify")
SCOPES = (*BARE, MEMBERSHIPS)

#: Why a call is dropped, by what it needed.
NOT_ALLOWED = {what: f"its key may not {what}" for what in BARE} | {
    MEMBERSHIPS: "its key may not tell memberships",
    DELETE: "a delete needs the webhook's signature",
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request: the short name of its key, which is what is kept and shown, and what it
    may. `key` itself shows in no text."""

    name: str
    may: frozenset[str]
    key: str = field(default="", repr=False)

    @property
    def scopes(self) -> str:
        """What it may, as it is stored with a request."""
        return ",".join(sorted(self.may))


#: Segment, by a good signature.
SIGNED = Caller(WEBHOOK, frozenset((*SCOPES, DELETE)))


def short_name(key: str) -> str:
    """The name of a key that was given none: the same whenever and wherever it is made. It holds 24
    bits of a hash, from which no key is found."""
    return f"key-{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def find(callers: Iterable[Caller], given: str | None) -> Caller | None:
    """Whose write key this is; looks at all of them, in constant time. A blank key is nobody's."""
    found: Caller | None = None
    offered = (given or "").encode("utf-8", "surrogatepass")
    for one in callers:
        if hmac.compare_digest(one.key.encode("utf-8", "surrogatepass"), offered) and one.key:
            found = one
    return found


def allowed(path: str, scopes: str) -> Collection[str]:
    """What a stored request may. One that an older program took has no scopes: it was let in by
    that program's rules, which only kept deletes to the webhook."""
    if scopes:
        return scopes.split(",")
    return SIGNED.may if path == WEBHOOK else SCOPES


def needed(call: Call) -> str:
    """What its key must be allowed for a call to count."""
    if call.type == DELETE:
        return DELETE
    return call.type if call.personas is None else MEMBERSHIPS
