"""The Amberflo account that a state belongs to: its acknowledgements hold for no other account."""

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
from syncer.json_text import to_json

#: Acknowledged customers that are looked for if the URL or the key changed.
PROBED = 20
#: Hexadecimal digits of the key's hash that are kept.
KEPT = 16
#: Accounts left by `--new-account` that are remembered, so that a process that still has
#: the old settings does not take the state back there.
REMEMBERED = 10
_PRINT = ("url", "salt", "key")


@dataclass
class AmberfloAccount:
    """The account of the settings.

    `url` is `amberflo.customers_url`. The state keeps the URL and a salted hash of the key, never
    the key.
    """

    database: Database
    connect: Callable[[], AbstractAsyncContextManager[CustomerReader]]
    url: str
    api_key: str

    def check(self) -> str:
        """Check that the state belongs to this account, and record it if the state has none yet.

        Return what the state says of the account now, for `CustomerDelivery.account`. Raises
        OtherAccount.
        """
        recorded = self.recorded()
        if recorded is not None:
            return recorded
        with self.database.write() as connection:
            return self._record(connection, self._known(connection)["left"])

    def recorded(self) -> str | None:
        """Return what the state says of this account (None: nothing yet), and write nothing.

        This costs one look at the state if nothing changed. If the URL or the key changed,
        acknowledged customers are looked for at Amberflo: most of them are found if only the key
        was rotated. Otherwise OtherAccount is raised.
        """
        with self.database.read() as connection:
            recorded, known = metadata.get(connection, metadata.ACCOUNT), self._known(connection)
            if recorded is None or self._is(known):
                return recorded
            acknowledged = outbox.newest_acknowledged(connection, PROBED)
        if any(map(self._is, known["left"])):
            raise OtherAccount(
                f"{self._changes(known)}: `syncer sync --new-account` left this account; start or "
                "reload (SIGHUP) this process with the settings of the new one, or give "
                "--new-account again to come back"
            )
        if acknowledged:
            self._check_acknowledged(acknowledged, known)
        return None

    def move_state_here(self, connection: Connection, now: int) -> None:
        """Let the state belong to this account, which knows nothing of it.

        All customers are due again, at `now` (epoch milliseconds), in a transaction that writes
        alone. What deliveries to the old account still report does not count any more.
        """
        known = self._known(connection)
        accounts = [{name: known[name] for name in _PRINT}, *known["left"]]
        outbox.unacknowledge(connection, now)
        others = [account for account in accounts if account["url"] and not self._is(account)]
        self._record(connection, others[:REMEMBERED])

    def _check_acknowledged(self, acknowledged: list[str], known: dict[str, Any]) -> None:
        known_there = uvloop.run(self._count(acknowledged))
        if known_there * 2 <= len(acknowledged):
            raise OtherAccount(
                f"{self._changes(known)}, and {known_there} of {len(acknowledged)} customers that "
                "Amberflo acknowledged last are there: this seems to be another account. Set it "
                "back, or let `syncer sync --new-account` send everybody to the new one"
            )

    async def _count(self, customer_ids: list[str]) -> int:
        """Count the customers that Amberflo knows."""
        async with self.connect() as reader:
            return sum([await reader.one(customer_id) is not None for customer_id in customer_ids])

    def _known(self, connection: Connection) -> dict[str, Any]:
        """Return the account that the state recorded, and those that it left."""
        recorded = metadata.get(connection, metadata.ACCOUNT)
        if recorded is None:
            return {"url": "", "salt": "", "key": "", "left": []}
        known: dict[str, Any] = orjson.loads(recorded)
        return known

    def _is(self, known: dict[str, Any]) -> bool:
        return not self._differs(known)

    def _differs(self, known: dict[str, Any]) -> list[str]:
        """Return what differs from a recorded account, in words."""
        differences = []
        if known["url"] != self._shown_url:
            differences.append(
                f"amberflo.customers_url is {self._shown_url} and was {known['url']}"
            )
        if known["key"] != _hash(known["salt"], self.api_key):
            differences.append("amberflo.api_key is another one than before")
        return differences

    def _changes(self, known: dict[str, Any]) -> str:
        return ", ".join(self._differs(known))

    @property
    def _shown_url(self) -> str:
        """The URL without a user and password, which a proxy may need."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _record(self, connection: Connection, earlier: list[dict[str, Any]]) -> str:
        salt = secrets.token_hex(8)
        recorded = {
            "url": self._shown_url,
            "salt": salt,
            "key": _hash(salt, self.api_key),
            "left": earlier,
        }
        text = to_json(recorded)
        metadata.put(connection, metadata.ACCOUNT, text)
        return text


def _hash(salt: str, api_key: str) -> str:
    return sha256(f"{salt}{api_key}".encode()).hexdigest()[:KEPT]
