"""Which Amberflo account the state is about: what was acknowledged there is not there elsewhere."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import orjson
import uvloop
from sqlalchemy import Connection

from state import outbox
from state.db import metadata
from state.db.database import Database
from syncer.amberflo.reader import CustomerReader
from syncer.errors import OtherAccount

#: Acknowledged customers that are looked for where the URL or the key is not the same any more.
PROBED = 20
#: Characters of the key's hash that are kept, in hexadecimal digits.
KEPT = 16
#: Accounts that were left by `--new-account` and are remembered, so that a process that still has
#: the old settings does not take the state back there.
REMEMBERED = 10
_PRINT = ("url", "salt", "key")


@dataclass
class AmberfloAccount:
    """The account of the settings: `url` is `amberflo.customers_url`. The state keeps the URL and a
    salted hash of the key, never the key."""

    database: Database
    connect: Callable[[], AbstractAsyncContextManager[CustomerReader]]
    url: str
    api_key: str

    def check(self) -> str:
        """Make sure that the state is about this account, as `look` does, and note it where it was
        not so yet. Gives what the state says of the account now, for `CustomerDelivery.account`."""
        noted = self.look()
        if noted is not None:
            return noted
        with self.database.write() as connection:
            return self._note(connection, self._known(connection)["left"])

    def look(self) -> str | None:
        """What the state says of this account; None: nothing yet. Costs one look at the state where
        nothing changed. Where the URL or the key did, acknowledged customers are looked for at
        Amberflo: most are there when only the key was rotated. Raises OtherAccount. Writes
        nothing."""
        with self.database.read() as connection:
            noted, known = metadata.get(connection, metadata.ACCOUNT), self._known(connection)
            if noted is None or self._is(known):
                return noted
            acknowledged = outbox.newest_acknowledged(connection, PROBED)
        if any(map(self._is, known["left"])):
            raise OtherAccount(
                f"{self._changes(known)}: `syncer sync --new-account` left this account; start or "
                "reload (SIGHUP) this process with the settings of the new one, or give "
                "--new-account again to come back"
            )
        if acknowledged:
            self._check_there(acknowledged, known)
        return None

    def begin_anew(self, connection: Connection, now: int) -> None:
        """This is another account, that knows nothing of this state: all customers are due again,
        at `now` (epoch milliseconds), in a transaction that writes alone. What deliveries to the
        old account still bring back counts no more."""
        known = self._known(connection)
        left = [{name: known[name] for name in _PRINT}, *known["left"]]
        outbox.unacknowledge(connection, now)
        self._note(
            connection, [one for one in left if one["url"] and not self._is(one)][:REMEMBERED]
        )

    def _check_there(self, acknowledged: list[str], known: dict[str, Any]) -> None:
        there = uvloop.run(self._there(acknowledged))
        if there * 2 <= len(acknowledged):
            raise OtherAccount(
                f"{self._changes(known)}, and {there} of {len(acknowledged)} customers that "
                "Amberflo acknowledged last are there: this seems to be another account. Set it "
                "back, or let `syncer sync --new-account` send everybody to the new one"
            )

    async def _there(self, customer_ids: list[str]) -> int:
        async with self.connect() as holdings:
            return sum([await holdings.one(one) is not None for one in customer_ids])

    def _known(self, connection: Connection) -> dict[str, Any]:
        """The account that the state notes, and those that it left."""
        noted = metadata.get(connection, metadata.ACCOUNT)
        if noted is None:
            return {"url": "", "salt": "", "key": "", "left": []}
        known: dict[str, Any] = orjson.loads(noted)
        return known

    def _is(self, known: dict[str, Any]) -> bool:
        return not self._differs(known)

    def _differs(self, known: dict[str, Any]) -> list[str]:
        """What of a noted account is not so now, in words."""
        found = []
        if known["url"] != self._shown_url:
            found.append(f"amberflo.customers_url is {self._shown_url} and was {known['url']}")
        if known["key"] != _hash(known["salt"], self.api_key):
            found.append("amberflo.api_key is another one than before")
        return found

    def _changes(self, known: dict[str, Any]) -> str:
        return ", ".join(self._differs(known))

    @property
    def _shown_url(self) -> str:
        """The URL without a user and password, which a proxy may want."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _note(self, connection: Connection, left: list[dict[str, Any]]) -> str:
        salt = secrets.token_hex(8)
        noted = {
            "url": self._shown_url,
            "salt": salt,
            "key": _hash(salt, self.api_key),
            "left": left,
        }
        text = orjson.dumps(noted).decode()
        metadata.put(connection, metadata.ACCOUNT, text)
        return text


def _hash(salt: str, api_key: str) -> str:
    return sha256(f"{salt}{api_key}".encode()).hexdigest()[:KEPT]
