"""The claims of a delivery: which due customers it has in work, with the names that are ours."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection

from state import chosen_claims, outbox
from state.db import metadata, workers
from state.db.database import Database
from state.errors import Busy
from state.removable import removable
from state.snapshot import CustomerRow
from syncer.amberflo.writer import OLDEST, Listed
from syncer.clock import now_ms
from syncer.errors import AmberfloError


class Claimed(NamedTuple):
    """A customer to send, and the trait names that were ours when it was claimed.

    A `probe` is a customer that Amberflo has already; it shows whether Amberflo takes any. `listed`
    is what lists showed of it, and `place` how many customers come before it in their pages.
    """

    row: CustomerRow
    owned: frozenset[str]
    probe: bool = False
    listed: tuple[Listed, ...] = ()
    place: int | None = None

    def alone(self) -> Claimed:
        """Return it without what lists showed: it is read by itself."""
        return self._replace(listed=(), place=None)


@dataclass
class Claims:
    """Claims customers for a worker: all that are due, or those that the run `for_run` waits for.

    Nothing is claimed for another Amberflo account than `account` (`metadata.ACCOUNT`; None if it
    was not checked): every method raises `AmberfloError` then. While a run commits, nothing is
    claimed either.
    """

    database: Database
    worker: int
    for_run: int | None = None
    account: str | None = None

    def __post_init__(self) -> None:
        self._began = now_ms()
        with self.database.write(beside=True) as connection:
            # A delivery of this worker that failed had claimed these.
            workers.free_customers(connection, self.worker)

    def next(self, limit: int, retried_since: int | None = None) -> list[Claimed]:
        """Claim the next due customers, at most `limit`.

        With `retried_since` (epoch ms) of those of runs only who failed and is tried again.
        """

        def claim(connection: Connection) -> list[CustomerRow]:
            return outbox.claim(
                *(connection, self.worker, now_ms(), limit, self.for_run, self._began),
                retried_since=retried_since,
            )

        return self._claimed(claim) or []

    def named(self, customer_ids: Collection[str]) -> list[Claimed]:
        """Claim those of the named customers that are due, never tried, and not sent just now."""

        def claim(connection: Connection) -> list[CustomerRow]:
            now = now_ms()
            sent_before = now - int(OLDEST * 1000)
            return chosen_claims.claim_named(
                connection, self.worker, now, customer_ids, self.for_run, sent_before
            )

        return (self._claimed(claim) or []) if customer_ids else []

    def untried(self, since: int) -> int:
        """Count the customers that runs made due after `since` (epoch ms), and nobody tried."""
        with self.database.read() as connection:
            return chosen_claims.untried(connection, since, self.for_run)

    def acknowledged(self, limit: int) -> list[Claimed] | None:
        """Claim probes: customers that Amberflo has already. None if that cannot be done now."""

        def claim(connection: Connection) -> list[CustomerRow]:
            return chosen_claims.claim_acknowledged(connection, self.worker, now_ms(), limit)

        probes = self._claimed(claim, beside=True)
        return None if probes is None else [probe._replace(probe=True) for probe in probes]

    def release(self, customer_ids: Collection[str]) -> None:
        """Let others have customers that were claimed and not begun."""
        if customer_ids:
            with suppress(Busy), self.database.write(beside=True) as connection:
                outbox.release(connection, customer_ids)

    def nothing_due(self) -> bool:
        """Return whether nothing is left that is due, now or at a later attempt."""
        with self.database.read() as connection:
            return outbox.oldest_due(connection, self.for_run) is None

    def backlog(self) -> int:
        """Count the customers that are due."""
        with self.database.read() as connection:
            return outbox.backlog(connection, self.for_run)

    def _claimed(
        self, claim: Callable[[Connection], Sequence[CustomerRow]], *, beside: bool = False
    ) -> list[Claimed] | None:
        """Claim customers, with the trait names that are ours; return None while a run commits.

        A delivery may last for hours, so the names are read with each claim. If they change after
        it, the customers concerned are due again.
        """
        try:
            with self.database.write(beside=beside) as connection:
                if self.account not in (None, metadata.get(connection, metadata.ACCOUNT)):
                    raise AmberfloError("the Amberflo account was changed meanwhile")
                rows = claim(connection)
                owned = removable(connection, rows) if rows else {}
        except Busy:
            return None
        return [Claimed(row, owned[row.customer_id]) for row in rows]
