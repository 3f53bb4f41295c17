"""An answer of Amberflo: what it says, and what an error keeps of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from syncer.amberflo.codec import read
from syncer.errors import TryAgain
from syncer.retry import retry_after

#: Statuses that say "not now"; all other 4xx say "not this".
NOT_NOW = frozenset({408, 425, 429})
#: How much of an answer is kept for the list of failures.
BODY_KEPT = 2000


class Answer(NamedTuple):
    """What came back, with the request that it answers."""

    method: str
    url: str
    content: bytes | None
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def request(self) -> str:
        """For the list of failures; records of meters are listed one by one."""
        text = (self.content or b"") if (self.content or b"")[:1] == b"{" else b""
        return f"{self.method} {self.url} {text.decode('utf-8', 'ignore')}".rstrip()

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def answered(self) -> str:
        """What was answered, without what differs from request to request."""
        return f"{self.method} {self.url.partition('?')[0]} answered {self.status}"

    def kept(self) -> dict[str, Any]:
        """Return what an error keeps of the answer."""
        body = self.body.decode("utf-8", "replace")[:BODY_KEPT]
        return {"request": self.request, "status": self.status, "body": body}

    def unreadable(self, why: str) -> TryAgain:
        what = f"with {why}: {self.message}"
        reason = f"{self.method} {self.url} answered {self.status} {what}"
        return TryAgain(reason, cause=f"{self.answered} {what}", **self.kept())

    @property
    def is_not_now(self) -> bool:
        """Whether it says "not now", and not "not this"."""
        return self.status in NOT_NOW or self.status >= 500

    @property
    def after(self) -> float | None:
        """The seconds that it asks to wait; None if it does not say "not now"."""
        if self.is_not_now:
            return retry_after(self.headers.get("retry-after"), datetime.now(UTC))
        return None

    @property
    def message(self) -> str:
        """What Amberflo says: `errorMessage` or `message` of its JSON, else the text."""
        try:
            content = read(self.body)
        except ValueError:
            content = None
        if isinstance(content, dict):
            for key in ("errorMessage", "message"):
                if isinstance(content.get(key), str):
                    return str(content[key])
        words = self.body.decode("utf-8", "replace")
        return re.sub(r"\s+", " ", words).strip()[:200] or "no reason given"


def text(header: str) -> str:
    """Return a text of a header as text alone: aiohttp keeps bytes that are no UTF-8 as halves."""
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
