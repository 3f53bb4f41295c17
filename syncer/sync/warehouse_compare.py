"""The comparison in the warehouse: whom a run reads where the warehouse keeps fingerprints.

The warehouse says whose rows are not as they were when the baseline was made, and the state whom
the run must look at all the same. What is read goes through the same comparison as ever. If there
is no baseline, or the result depends on something that is not as it was, everything is read.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import Connection

from state import fingerprint_tables, holds, revisits, suppression
from syncer import __version__
from syncer.engage.catalog import Catalog
from syncer.engage.source import (
    ComparingSource,
    Counted,
    Fingerprints,
    PulledCustomer,
    PushDown,
    Source,
)
from syncer.json_text import to_json
from syncer.progress import Progress
from syncer.sync.first_contact import FirstContact
from syncer.sync.tally import Tally
from syncer.sync.trait_selection import Selection


@dataclass(frozen=True)
class Plan:
    """That a run which compares everything keeps fingerprints, in the table of this name.

    It may read by those of the run before if it `compares`, otherwise it reads everything.
    """

    table: str
    compares: bool


class Baseline(NamedTuple):
    """What a run leaves for the next one to compare by.

    `seen` is the number of the newest note (state/revisits.py) that the run has seen to, `dropped`
    are the tables that it dropped.
    """

    fingerprints: Fingerprints
    basis: str
    seen: int
    dropped: list[str]


def planned(source: Source, connection: Connection, run: int, *, compares: bool) -> Plan | None:
    """Note the table that a run is about to make; None if the source does not compare."""
    if not isinstance(source, ComparingSource):
        return None
    plan = Plan(source.new_table(), compares)
    fingerprint_tables.add(connection, plan.table, run)
    return plan


def basis_of(selection: Selection, catalog: Catalog) -> str:
    """Return a hash of all that a comparison depends on beside the rows and the state.

    These are the settings, which keys are ours and how they are read, and this program's version.
    """
    settings = [selection.settings, selection.forget_deleted, selection.hold_first_contact]
    traits = [(trait.key, trait.name, trait.kind) for _, trait in sorted(catalog.by_key.items())]
    left_out = sorted(trait.key for trait in catalog.left_out)
    names = [catalog.keys, sorted(catalog.problems.items()), sorted(catalog.unlisted), left_out]
    return sha256(to_json([__version__, settings, traits, names]).encode()).hexdigest()


class WarehouseCompare:
    """What the warehouse compares of one pull; first call `begin`, last `finish`."""

    def __init__(
        self, push_down: PushDown, plan: Plan, connection: Connection, progress: Progress
    ) -> None:
        self._push_down, self._plan = push_down, plan
        self._connection, self._progress = connection, progress
        #: whether only a part of the customers is read
        self.narrows = False

    def begin(self, catalog: Catalog, basis: str, first: FirstContact | None) -> Counted | None:
        """Keep the fingerprints of now; count the customers to read, None for everybody."""
        self._keys, self._basis = catalog.keys, basis
        self._seen = revisits.newest(self._connection)
        self._dropped = self._drop()
        before = self._baseline()
        self._now = self._push_down.keep(self._plan.table, self._keys)
        if before is None:
            return None
        self.narrows = True
        counted = self._push_down.choose(before, self._now, self._wanted(first))
        self._progress.say(
            f"{counted.customers:,} of {self._now.customers:,} customers are read: the warehouse "
            "says that the others are as they were"
        )
        return counted

    def given(self) -> Generator[tuple[str, PulledCustomer | None]]:
        """Yield the customers to read, in UTF-8 byte order of the id; None for who has no row."""
        yield from self._push_down.given(self._keys)

    def count_unchanged(self, tally: Tally) -> None:
        """Count the customers that were not read, as the warehouse does."""
        unchanged = self._push_down.unchanged(self._now, self._keys)
        tally.customers += unchanged.customers
        tally.rows += unchanged.rows
        tally.unchanged += unchanged.customers
        for key, customers in unchanged.keys.items():
            if (sums := tally.sums.get(key)) is None:
                continue  # a name or email
            sums.pulled += customers
            if (problem := tally.catalog.problems.get(key)) is not None:
                sums.reasons[problem] += customers
            else:
                sums.unchanged += customers

    def finish(self) -> Baseline:
        """Let what was kept last; return what the commit makes the baseline."""
        self._push_down.finish()
        return Baseline(self._now, self._basis, self._seen, self._dropped)

    def _drop(self) -> list[str]:
        """Drop the tables that nobody compares by any more; return those that are gone."""
        superseded = fingerprint_tables.superseded(self._connection, self._plan.table)
        refused = self._push_down.drop(superseded)
        for name, reason in refused.items():
            self._progress.say(f"the table {name} of an earlier run cannot be dropped: {reason}")
        return [name for name in superseded if name not in refused]

    def _baseline(self) -> Fingerprints | None:
        """Return what to compare by; if there is nothing, say why."""
        if not self._plan.compares:
            return None
        row = fingerprint_tables.baseline(self._connection)
        if row is None:
            reason: str | None = "no fingerprints are kept yet"
        elif row.basis != self._basis:
            reason = "the settings, the traits or the program changed"
        else:
            before = Fingerprints(row.name, row.customers, row.trait_rows)
            if (reason := self._push_down.fault(before)) is None:
                return before
        self._progress.say(f"all customers are read: {reason}")
        return None

    def _wanted(self, first: FirstContact | None) -> Iterator[str]:
        """Yield whom the run must read whatever the warehouse says; some may come twice.

        Of all others the comparison would find what it found before: nothing.
        """
        groups: list[Iterable[str]] = [
            revisits.listed(self._connection),
            holds.customers_in_force(self._connection),
            suppression.load(self._connection).pending,
        ]
        if first is not None:
            groups.append(first.doubtful())
        for customer_ids in groups:
            yield from customer_ids


def settle(
    connection: Connection,
    plan: Plan | None,
    baseline: Baseline | None,
    noted: int,
    unsettled: Iterable[str],
    *,
    whole: bool,
) -> None:
    """Make the fingerprints of a run the baseline in its commit, if it has some.

    A run that compares everything and has no plan ends this: nobody compares by fingerprints.
    `noted` is the number of the newest note when the commit began: what it noted itself, the run
    has seen to. `unsettled` are the customers that the run left something open of.
    """
    if whole and plan is None:
        fingerprint_tables.clear(connection)
        revisits.clear(connection)
    if plan is not None and not whole:  # no table was made
        fingerprint_tables.remove(connection, [plan.table])
    if baseline is not None:
        table, customers, rows = baseline.fingerprints
        fingerprint_tables.set_baseline(connection, table, customers, rows, baseline.basis)
        fingerprint_tables.remove(connection, baseline.dropped)
        revisits.settle(connection, baseline.seen, noted)
    revisits.note(connection, unsettled)
