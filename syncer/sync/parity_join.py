"""The join behind a parity report: each customer of a full compare beside its record at Amberflo.

The customers are those whose changes the comparison spooled, and all others of the state. What
Amberflo holds was listed to disk (`Roster`), as its list has an order of its own. A list may lag:
it clears customers, and who differs by it is read once more alone, as in a verification. That is
bounded (`ALONE`), since before a take-over everybody may differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, true

from state import snapshot, suppression
from state.db.database import Database
from state.removable import removable
from state.snapshot import CustomerRow
from state.suppression import Forgotten
from syncer.amberflo.record import Difference, is_protected
from syncer.cache import Cache
from syncer.chunks import CHUNK, chunks
from syncer.delivery.desired import compared_names, differences
from syncer.engage.trait_names import snake_case
from syncer.errors import AmberfloError
from syncer.sync.changes import CustomerChange, size_of
from syncer.sync.compared import Compared
from syncer.sync.destination import Destination
from syncer.sync.findings import EQUAL, EXTRA
from syncer.sync.overlay import laid_over
from syncer.sync.parity import Parity, Spelling
from syncer.sync.roster import RosterRow
from syncer.sync.spool import Spool

#: Customers that differ by the list and are read once more by themselves.
ALONE = 1000
#: Bytes of names whose spelling is remembered.
_NAMES = 4 << 20


class Wanted(NamedTuple):
    """A customer as a full run would leave it.

    `owned` are the names that such a run may take away of it (None: all of ours), `unsaid` the
    memberships that end because Engage has no row of them.
    """

    row: CustomerRow
    owned: Collection[str] | None = None
    unsaid: Collection[str] = ()


@dataclass
class ParityJoin:
    """Compares what was `compared` with what `destination` has listed. For one thread."""

    database: Database
    destination: Destination
    compared: Compared
    check_stop: Callable[[], None] = lambda: None
    result: Parity = field(default_factory=Parity)

    def __post_init__(self) -> None:
        self._names = frozenset(self.compared.catalog.by_name)
        settings = self.destination
        self._how: Any = {"as_strings": settings.as_strings, "protected": settings.protected}

    def parity(self) -> Parity:
        """Return what was found; the caller closes it."""
        try:
            with closing(Spool(self.database.folder)) as suspects:
                with self.database.read() as connection:
                    for wanted in self._wanted(connection):
                        self._look(wanted, suspects)
                    self._look_at_the_rest(suppression.load(connection))
                self._judge(suspects)
        except BaseException:
            self.result.close()
            raise
        return self.result

    # Who should be there

    def _wanted(self, connection: Connection) -> Iterator[list[Wanted]]:
        """Yield the customers that a full run would leave at Amberflo, some at a time."""
        for part in chunks(iter(self.compared.changes), size_of):
            yield self._changed(connection, part)
        after = ""
        while rows := snapshot.page_of(connection, true(), after, CHUNK):
            self.check_stop()
            looks = self.result.findings.looks([row.customer_id for row in rows])
            others = [row for row in rows if row.customer_id not in looks]
            owned = removable(connection, [row for row in others if row.compared is None])
            yield [Wanted(row, owned.get(row.customer_id)) for row in others]
            after = rows[-1].customer_id

    def _changed(self, connection: Connection, changes: Sequence[CustomerChange]) -> list[Wanted]:
        self.check_stop()
        known = snapshot.find(connection, [change.customer_id for change in changes])
        rows = {row.customer_id: row for row in known}
        self.result.findings.put_looks((customer_id, EQUAL) for customer_id in rows)
        partly = [row for row in known if row.compared is None]
        owned = removable(connection, partly)
        wanted = []
        for change in changes:
            row, _ = laid_over(rows.get(change.customer_id), change, self.compared.horizon)
            unsaid = [it.trait for it in change.changes if it.observed_at is None]
            may = None if change.compared else owned.get(change.customer_id)
            wanted.append(Wanted(row, may, unsaid))
        return wanted

    # Who is there

    def _look(self, wanted: Sequence[Wanted], suspects: Spool) -> None:
        """Count the customers that the list shows as they should be, and keep the others."""
        listed = self._listed(wanted)
        for customer in wanted:
            shown = listed.get(customer.row.customer_id)
            drifts = self._differences(customer, shown)
            if drifts is None or drifts:
                suspects.append(customer)
            else:
                self.result.put_equal(self._compared(customer))

    def _judge(self, suspects: Spool) -> None:
        """Read the customers that differ once more by themselves, and note where they do."""
        read = 0
        for part in chunks(map(_wanted_of, suspects)):
            listed = self._listed(part)
            ids = [customer.row.customer_id for customer in part]
            again = {customer_id for customer_id in ids if self._is_bare(listed.get(customer_id))}
            again.update(ids[: max(ALONE - read, 0)])
            read += len(again)
            if again:
                self.destination.read_again(again)
                listed = self._listed(part)
            for customer_id, customer in zip(ids, part, strict=True):
                self._note(customer, listed.get(customer_id), alone=customer_id in again)

    def _note(self, customer: Wanted, listed: RosterRow | None, alone: bool) -> None:
        result, names = self.result, self._compared(customer)
        drifts = self._differences(customer, listed)
        if not drifts:
            result.put_equal(names)
            return
        result.put_different(customer.row.customer_id, drifts, names, missing=listed is None)
        result.by_list += not alone
        updated_at = None if listed is None else listed.updated_at
        result.recent += updated_at is not None and updated_at > self.compared.horizon

    def _listed(self, wanted: Iterable[Wanted]) -> dict[str, RosterRow]:
        rows = self.destination.roster.rows([customer.row.customer_id for customer in wanted])
        return {row.customer_id: row for row in rows}

    def _is_bare(self, listed: RosterRow | None) -> bool:
        return listed is not None and self.destination.record(listed) is None

    def _differences(self, customer: Wanted, listed: RosterRow | None) -> list[Difference] | None:
        """Return where a record is not as it should be; None if the list does not show that."""
        record = {} if listed is None else self.destination.record(listed)
        if record is None:
            return None
        drifts = differences(record, customer.row, self._owned(customer), **self._how)
        return [
            drift._replace(expected=None)
            if drift.expected is False and drift.trait in customer.unsaid
            else drift
            for drift in drifts
        ]

    def _compared(self, customer: Wanted) -> list[str]:
        return compared_names(customer.row, self._owned(customer), **self._how)

    def _owned(self, customer: Wanted) -> Collection[str]:
        return self._names if customer.owned is None else customer.owned

    # All that is there

    def _look_at_the_rest(self, forgotten: Forgotten) -> None:
        """Note customers that Engage does not know, and names that are spelled otherwise."""
        spelled, strangers = Counter[tuple[str, str]](), []
        spelling = partial(_spelling, Cache[str, str](_NAMES), self._spellings())
        for number, row in enumerate(self.destination.roster.everybody()):
            if not number % CHUNK:
                self.check_stop()
            if not (row.known or row.in_engage or row.customer_id in forgotten):
                strangers.append((row.customer_id, EXTRA))
            if len(strangers) >= CHUNK:
                self.result.findings.put_looks(strangers)
                strangers.clear()
            for name in orjson.loads(row.traits or "{}"):
                if name not in self._names and (ours := spelling(name)):
                    spelled[ours, name] += 1
        self.result.findings.put_looks(strangers)
        keys = {trait.name: trait.key for trait in self.compared.catalog.by_name.values()}
        # The hosted destination writes a key as it is (docs/facts/segment.md §7).
        pairs = {*spelled, *((name, key) for name, key in keys.items() if key != name)}
        self.result.spellings = [
            Spelling(name, keys[name], theirs, spelled[name, theirs])
            for name, theirs in sorted(pairs)
        ]

    def _spellings(self) -> dict[str, str]:
        """Return our names by their snake_case."""
        protected = self.destination.protected
        ours = (name for name in sorted(self._names) if not is_protected(name, protected))
        return {snake_case(name): name for name in ours}


def _spelling(known: Cache[str, str], ours: dict[str, str], name: str) -> str:
    """Return our name of which this is another spelling; "" if there is none."""
    spelling = known.get(name)
    if spelling is None:
        spelling = known.put(name, ours.get(snake_case(name), ""), 200 + len(name))
    return spelling


def _wanted_of(fields: Sequence[Any]) -> Wanted:
    row, owned, unsaid = fields
    return Wanted(CustomerRow._make(row), owned, unsaid)


def with_parity(
    compared: Compared,
    destination: Destination | None,
    database: Database,
    check_stop: Callable[[], None],
) -> Compared:
    """Add the parity to a comparison and return it; it is closed if that fails.

    Raises AmberfloError if Amberflo was not read.
    """
    try:
        if destination is None or compared.first_contact is None:
            raise AmberfloError(
                "what Amberflo holds cannot be read, so nothing is compared with it"
            )
        compared.parity = ParityJoin(database, destination, compared, check_stop).parity()
    except BaseException:
        compared.close()
        raise
    return compared
