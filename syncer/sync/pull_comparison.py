"""The comparison of one pull: its customers beside what the state and Amberflo have of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Connection

from state import holds, runs, snapshot, suppression
from syncer.clock import read as milliseconds
from syncer.engage.catalog import Catalog
from syncer.engage.computations import Computations
from syncer.engage.source import (
    ChangedSince,
    Counted,
    Everything,
    OnlyCustomers,
    Pull,
    Scope,
    WithoutCustomerId,
)
from syncer.errors import AmberfloError, NotFound, SourceError
from syncer.event_times import horizon
from syncer.sync import readiness
from syncer.sync.compared import Compared, RunKind
from syncer.sync.decision import Approval, Decision, Evidence, decide
from syncer.sync.destination import Destination
from syncer.sync.diff import ENGAGE_WINS, compare
from syncer.sync.first_contact import FirstContact
from syncer.sync.guard import DAY
from syncer.sync.join import (
    JoinedRow,
    add_without_traits,
    look_up,
    look_up_given,
    mark_deleted,
    merge,
    with_destination,
    with_valid_ids,
)
from syncer.sync.observed_keys import known_keys, with_new
from syncer.sync.readiness import Mismatch
from syncer.sync.rulings import MentionedCustomers, Rulings
from syncer.sync.spool import ChangeSpool
from syncer.sync.suppressed import without_suppressed
from syncer.sync.tally import Tally
from syncer.sync.trait_selection import members_by_key
from syncer.sync.warehouse_compare import WarehouseCompare, basis_of

if TYPE_CHECKING:
    from syncer.sync.comparison import Comparison

Row = TypeVar("Row")


class PullComparison:
    """One comparison, while its pull and its view of the state are open."""

    def __init__(
        self,
        settings: Comparison,
        kind: RunKind,
        scope: Scope,
        approval: Approval | None,
        computations: Computations | None,
        pull: Pull,
        connection: Connection,
        destination: Destination | None,
        warehouse: WarehouseCompare | None = None,
    ) -> None:
        self.settings, self.kind, self.scope, self.approval = settings, kind, scope, approval
        self.computations, self.pull, self.connection = computations, pull, connection
        #: compares in the warehouse; None if it does not
        self.warehouse = warehouse
        self.selection, self.whole = settings.selection, isinstance(scope, Everything)
        self.traits = snapshot.traits(connection)
        released = snapshot.traits(connection, released=True)
        released = [row for row in released if row.released_at is not None]
        with settings.watch.asking():
            seen, self.absence = pull.observed(), pull.absence()
        known = {} if self.whole else known_keys(connection, self.traits)
        observed = with_new(known, seen)
        self.observed, self.unknown = list(observed.values()), observed.keys() - known.keys()
        self.catalog = self.selection.catalog(self.observed, self.traits, released, computations)
        self.new = self._new_traits()
        self.tally = Tally(self.catalog)
        self.members = members_by_key(self.traits, self.catalog)
        approved = () if approval is None else (approval.holds, approval.run)
        self.rulings = Rulings(connection, self.tally, *approved)
        self.first_contact = self._first_contact(destination)

    def compared(self) -> Compared:
        """Compare all that the pull has, and decide what may go through."""
        settings, tally, folder = self.settings, self.tally, self.settings.database.folder
        watermark, began = self.pull.watermark(), settings.clock()
        # Until when calls that came are in the source too; in a resync Engage wins over all calls.
        newest = milliseconds(watermark) or settings.clock()
        known_until = ENGAGE_WINS if self.kind == "resync" else horizon(newest, settings.clock())
        changes, mentioned = ChangeSpool(folder), MentionedCustomers(folder)
        try:
            rows = self._rows(mentioned, known_until)
            differing = compare(
                rows,
                self.catalog,
                tally,
                known_until,
                whole=self.whole,
                absence=self.absence,
                forget=self.selection.forget_deleted,
            )
            for change in self.rulings.read(differing):
                changes.append(change)
            self._check_complete()
            if self.warehouse is not None and self.warehouse.narrows:
                self.warehouse.count_unchanged(tally)
            without_id = self._without_id()
            tally.check_sums()
            decision = self._decide()
            settles_all, baseline = self._settles_all(decision), None
            if self.warehouse is not None and settles_all:
                baseline = self.warehouse.finish()
        except BaseException:
            changes.close()
            mentioned.close()
            raise
        watermark = watermark if settles_all else None
        compared = Compared(
            kind=self.kind,
            scope=self.scope,
            catalog=self.catalog,
            observed=self.observed,
            tally=tally,
            changes=changes,
            decision=decision,
            members=self.members,
            watermark=None if isinstance(self.scope, OnlyCustomers) else (watermark or ""),
            without_id=without_id,
            # A call that comes during the comparison is newer than the pull, whoever wins.
            horizon=min(known_until, began),
            mentioned=mentioned,
            excused=self.rulings.excused,
            computations=self.computations,
            mismatches=self._mismatches(decision),
            first_contact=self.first_contact,
            baseline=baseline,
        )
        if (first := self.first_contact) is not None and first.notice is not None:
            compared.notices.append(first.notice)
        compared.notices += tally.notices()
        return compared

    # Before the pull is read

    def _new_traits(self) -> list[str]:
        """Return the keys that become ours by this run; a partial pull cannot take them in."""
        # A key that is refused for its name does not become ours.
        ours = {trait.key for trait in self.catalog.by_name.values()}
        new = sorted(ours - {row.key for row in self.traits})
        # Only a run of all shows whether the key that has the name is still there.
        turned_up = new + sorted(self.unknown & self.catalog.problems.keys())
        if turned_up and isinstance(self.scope, ChangedSince):
            raise NewTraits(turned_up, self.catalog)
        return new

    def _first_contact(self, destination: Destination | None) -> FirstContact | None:
        """Return what Amberflo holds under the names of the run, if it can be read."""
        first = None
        try:
            if destination is not None:
                first = destination.first_contact(self.catalog, self.connection)
        except AmberfloError as problem:
            self.settings.progress.say(f"what Amberflo holds is not compared: {problem}")
        if first is None and self.whole and self.new and self.selection.hold_first_contact:
            raise SourceError(
                'Amberflo cannot be read, and engage.first_contact is "hold": '
                f"{', '.join(self.new[:5])} must wait until it can; nothing was changed"
            )
        return first

    # The stream

    def _rows(self, mentioned: MentionedCustomers, known_until: int) -> Iterator[JoinedRow]:
        """Yield the customers to compare, each joined with what the state and Amberflo have."""
        tally, progress = self.tally, self.settings.progress
        with self.settings.watch.asking():
            counted = self._counted()
        progress.begin("comparing", counted.customers)
        # Closed here, so that a stop leaves no cursor open behind its connection.
        with ExitStack() as cursors:
            rows = self._joined(cursors, mentioned, known_until)
            if self.first_contact is not None:
                rows = with_destination(rows, self.first_contact.before)
            rows = without_suppressed(rows, suppression.load(self.connection), tally)
            yield from rows if self.first_contact is None else self.first_contact.noting(rows)
        progress.end()
        tally.counted = counted

    def _counted(self) -> Counted:
        """Count the customers to read, after the warehouse chose them where it does."""
        if self.warehouse is not None:
            basis = basis_of(self.selection, self.catalog)
            given = self.warehouse.begin(self.catalog, basis, self.first_contact)
            if given is not None:
                return given
        return self.pull.count(self.catalog.keys)

    def _joined(
        self, cursors: ExitStack, mentioned: MentionedCustomers, known_until: int
    ) -> Iterable[JoinedRow]:
        """Return the customers to compare, joined with what the state has."""
        keys, find = self.catalog.keys, partial(snapshot.known, self.connection)
        if self.warehouse is not None and self.warehouse.narrows:
            given = cursors.enter_context(closing(self.warehouse.given()))
            return self._all_rows(look_up_given(self._until_stopped(given), find), known_until)
        pulled = self._until_stopped(cursors.enter_context(closing(self.pull.customers(keys))))
        if self.whole:
            known = cursors.enter_context(closing(snapshot.customers(self.connection)))
            return self._all_rows(merge(pulled, known), known_until)
        valid = with_valid_ids(look_up(pulled, find), self.tally)
        return mentioned.noted(valid, self.catalog, self.rulings.traits)

    def _all_rows(self, rows: Iterable[JoinedRow], known_until: int) -> Iterator[JoinedRow]:
        """Yield the rows of a full compare, with what a missing row says of a customer."""
        pull, tally, folder = self.pull, self.tally, self.settings.database.folder
        if self.first_contact is not None:
            unknown = self.first_contact.unknown_ids()
            rows = add_without_traits(rows, unknown, pull.identified, tally, folder)
        rows = with_valid_ids(rows, tally)
        if not self.absence.deletions:
            return rows
        return mark_deleted(rows, pull.identified, known_until, tally, folder, self.absence.unread)

    def _until_stopped(self, pulled: Iterator[Row]) -> Iterator[Row]:
        """Yield the same rows, report the progress, and raise Stopped if the user stops."""
        with self.settings.watch.asking() as watch:
            for number, row in enumerate(pulled):
                watch.answered()
                if number % 2048 == 0:
                    self.settings.progress.at(number)
                    self.settings.check_stop()
                yield row

    # After the pull is read

    def _check_complete(self) -> None:
        """Raise SourceError if the pull is not complete (docs/design.md §3.7)."""
        tally, counted = self.tally, self.tally.counted
        assert counted is not None
        customers = tally.customers - tally.without_traits
        if (customers, tally.rows) != (counted.customers, counted.rows):
            raise SourceError(
                f"the pull ended early: {customers:,} customers with {tally.rows:,} rows of "
                f"{counted.customers:,} with {counted.rows:,} that the source counts"
            )

    def _without_id(self) -> WithoutCustomerId:
        """Count the rows of profiles without a customer id as skipped."""
        tally, scope = self.tally, self.scope
        if isinstance(scope, OnlyCustomers):
            if not tally.customers and not snapshot.known(self.connection, scope.customer_ids):
                named = ", ".join(map(repr, scope.customer_ids))
                raise NotFound(f"Engage has no customer {named}")
            return WithoutCustomerId(0, {})
        with self.settings.watch.asking():
            without_id = self.pull.without_customer_id(self.catalog.keys)
        for key, count in without_id.rows.items():
            tally.sums[key].pulled += count
            tally.sums[key].reasons["no customer id"] += count
        return without_id

    def _decide(self) -> Decision:
        """Decide what may go through: the guard, Segment, and decisions that people made before."""
        connection, day = self.connection, self.settings.clock() - DAY
        if self.whole:  # no other run finds deleted customers
            self.tally.known = snapshot.size(connection)
        evidence = Evidence(
            catalog=self.catalog,
            tally=self.tally,
            members=self.members,
            excused=self.rulings.excused,
            computations=self.computations,
            conflicts=self._conflicts(),
            open_holds=holds.open_holds(connection),
            left=runs.left_since(connection, day),
            deleted=holds.deleted_since(connection, day),
            whole=self.whole,
            approved=self.approval.holds if self.approval else (),
        )
        return decide(self.settings.guard, evidence)

    def _conflicts(self) -> dict[str, int]:
        """Return the new keys with other values at Amberflo, counted, if the config holds such."""
        if (first := self.first_contact) is None or not self.selection.hold_first_contact:
            return {}
        known = set() if first.new_account else {row.trait for row in self.traits}
        return {
            self.catalog.by_name[name].key: trait.differ
            for name, trait in first.traits.items()
            if name not in known
        }

    def _settles_all(self, decision: Decision) -> bool:
        """Return whether the next run may start where this one ends: nothing waits, or is aside."""
        if decision.waiting:
            return False
        statuses = {row.key: row.status for row in self.traits}
        return self.computations is None or not readiness.unseen(
            self.computations, self.catalog, statuses, whole=self.whole
        )

    def _mismatches(self, decision: Decision) -> list[Mismatch]:
        """Return the audiences of which Segment counts another number of members."""
        if not self.computations or not self.whole:
            return []
        here = readiness.members_after(
            self.tally.sums, self.members, decision.held, decision.waiting
        )
        return readiness.mismatches(
            self.computations, here, self.selection.audiences, self.settings.size_tolerance
        )


class NewTraits(Exception):
    """Keys that a partial pull has seen and that may become ours; the text names them."""

    def __init__(self, keys: Sequence[str], catalog: Catalog) -> None:
        shown = [f"{key} ({catalog.by_key[key].kind.replace('_', ' ')})" for key in keys[:5]]
        super().__init__(", ".join([*shown, *(["…"] if len(keys) > 5 else [])]))
