"""The commit of a run: one transaction that lays its changes over the state.

Calls may have come since the comparison, so each change is laid over the customer as it is now. The
history, the holds, what is due at Amberflo, the run's sums and the seal are part of the same
transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Connection

from state import early_exits, holds, outbox, restored, revisits, runs, snapshot, suppression
from state.db import metadata
from state.db.batches import ROWS
from state.db.database import Database
from state.history import seal
from state.history.record import ChangeRow, add_changes, delta_of
from state.holds import Kept
from state.snapshot import CustomerRow, TraitRow
from syncer.chunks import CHUNK_SIZE, chunks
from syncer.engage.computations import UNLISTED
from syncer.engage.values import counts, same
from syncer.event_times import came_after, read_stamps
from syncer.json_text import to_json_or_none
from syncer.sync.amberflo_account import AmberfloAccount
from syncer.sync.changes import ADOPTED, AMBERFLO, CustomerChange, TraitChange, leaves, size_of
from syncer.sync.compared import Compared
from syncer.sync.decision import Approval, Decision
from syncer.sync.observed_keys import keep_keys
from syncer.sync.overlay import laid_over, laid_over_exits, says_something
from syncer.sync.tally import Applied, Sums
from syncer.sync.trait_owners import rename_traits, take_from_calls
from syncer.sync.warehouse_compare import settle


@dataclass(frozen=True)
class Redelivery:
    """The customers to send again, changed or not.

    These are the customers that are or were in an audience, or the named ones; with neither, all
    customers. `less_held` leaves out customers of whom something is held.
    """

    audience: str | None = None
    customer_ids: Iterable[str] | None = None
    less_held: bool = False


@dataclass(frozen=True)
class Commit:
    """Applies what a run compared, at `now` (epoch milliseconds).

    `new_account` is the Amberflo account if the settings name a new one from now on. `check_stop`
    raises if the user asked to stop; the transaction is then undone.
    """

    database: Database
    run: int
    compared: Compared
    now: int
    approval: Approval | None = None
    redelivery: Redelivery | None = None
    new_account: AmberfloAccount | None = None
    #: how the values of traits are sent: "native" or "string"
    trait_values: str = "native"
    #: whether customers that were deleted in Segment are to be forgotten
    forget_deleted: bool = False
    check_stop: Callable[[], None] = lambda: None

    def apply(self) -> Applied:
        """Write everything in one transaction, and return what it came to."""
        run, now, catalog = self.run, self.now, self.compared.catalog
        with self.database.write(alone=True) as connection:
            noted = revisits.newest(connection)
            if self.new_account is not None:
                self.new_account.move_state_here(connection, now)
            self._approve(connection)
            suppression.keep(connection, self.compared.tally.returned)
            rename_traits(connection, catalog.renamed, run, now)
            take_from_calls(connection, catalog.by_name, run, now)
            applied = self._write_changes(connection)
            self._close_holds(connection)
            self._put_traits(connection, applied)
            self._send_again(connection)
            self._put_record(connection, applied)
            if self.compared.whole:
                restored.settle(connection)
            self._keep_fingerprints(connection, noted, applied)
            keep_keys(connection, self.compared.observed)
            seal.seal(connection, run, now)
        return applied

    def _keep_fingerprints(self, connection: Connection, noted: int, applied: Applied) -> None:
        """Make the run's fingerprints the baseline, and note whom it leaves something open of."""
        compared, tally = self.compared, self.compared.tally
        unsettled = [*tally.unsettled, *tally.unconfirmed_deletions, *applied.unsettled]
        plan, baseline, whole = compared.plan, compared.baseline, compared.whole
        settle(connection, plan, baseline, noted, unsettled, whole=whole)

    def _approve(self, connection: Connection) -> None:
        if self.approval is None:
            return
        holds.decide(
            connection,
            self.approval.holds,
            holds.APPROVED,
            self.now,
            by=self.approval.attribution.by,
            because=self.approval.attribution.because,
            run=self.run,
        )

    def _write_changes(self, connection: Connection) -> Applied:
        """Write the changes that the decision lets through, and record those that it holds."""
        compared = self.compared
        writer = Writer(
            connection,
            self.run,
            self.now,
            compared.decision,
            horizon=compared.horizon,
            recount=compared.tally.recount,
            sizes=compared.sizes,
            forget=self.forget_deleted,
            differ=self._differ,
            notes=compared.baseline is None,
        )
        for number, change in enumerate(compared.changes):
            if number % 2048 == 0:
                self.check_stop()
            writer.write(change)
        writer.flush()
        return writer.applied

    @property
    def _differ(self) -> Callable[[Collection[str]], Collection[str]] | None:
        """What tells the customers that differ at Amberflo, if the run adopts the others."""
        parity = self.compared.parity
        return parity.findings.differ if parity and self.compared.kind == "adopt" else None

    def _close_holds(self, connection: Connection) -> None:
        """Close what older holds keep back and Engage does not say any more."""
        compared, run, now = self.compared, self.run, self.now
        if compared.whole:
            holds.stay(connection, compared.tally.unconfirmed_deletions, run)
            holds.end_unseen(connection, {*compared.catalog.by_name, holds.DELETED}, run, now)
        for trait, customer_ids in compared.mentioned:
            holds.end_unsaid(connection, trait, customer_ids, run, now)
        left_out = {trait.name for trait in compared.catalog.left_out}
        withdrawn = [
            hold.id for trait, hold in holds.open_holds(connection).items() if trait in left_out
        ]
        reason = "the config leaves it out"
        holds.decide(connection, withdrawn, holds.WITHDRAWN, now, because=reason, run=run)
        holds.close_empty(connection, run, now)

    def _put_traits(self, connection: Connection, applied: Applied) -> None:
        """Record the traits, and what the Public API says of them."""
        catalog, listed = self.compared.catalog, self.compared.computations
        snapshot.put_traits(
            connection,
            [
                TraitRow(trait.key, trait.name, trait.kind, applied.members[trait.key])
                for trait in catalog.by_name.values()
            ],
        )
        if listed is None or listed.problem is not None:
            return
        rows = []
        for row in snapshot.traits(connection):
            computation = listed.computations.get(row.key)
            if computation is None:
                status = UNLISTED if row.key in catalog.unlisted else None
                rows.append(row._replace(status=status, size=None))
            else:
                name, status, size = computation.name, computation.status, computation.size
                rows.append(row._replace(name=name, status=status, size=size))
        snapshot.describe_traits(connection, rows)

    def _send_again(self, connection: Connection) -> None:
        """Make customers due that did not change."""
        again = self.redelivery
        if again is not None and again.customer_ids is None:
            outbox.send_again(connection, self.now, key=again.audience)
        elif again is not None and again.customer_ids is not None:
            for part in chunks(iter(again.customer_ids)):
                ids = set(part)
                if again.less_held:
                    ids -= {customer_id for customer_id, _ in holds.in_force(connection, ids)}
                outbox.send_again(connection, self.now, customer_ids=ids)
        # Once everybody is due, all values at Amberflo are in the configured form.
        unknown = metadata.get(connection, metadata.TRAIT_VALUES) is None
        if unknown or again == Redelivery():
            metadata.put(connection, metadata.TRAIT_VALUES, self.trait_values)

    def _put_record(self, connection: Connection, applied: Applied) -> None:
        """Record the run's sums, and take over what earlier runs left due."""
        compared, run, now = self.compared, self.run, self.now
        runs.add_traits(connection, run, compared.trait_sums(applied))
        adopts = compared.kind == "adopt"  # what differs waits for the next run
        applied.due = applied.adopted if adopts else outbox.adopt(connection, run, now)
        values = {
            **_totals(compared.tally.sums.values()),
            "kind": compared.kind,
            "committed_at": now,
            "watermark": compared.watermark,
            "without_customer_id": compared.without_id.profiles,
            "due": applied.due + applied.held_customers,
            "held": applied.held_customers,
            "deleted": applied.deleted,
            "hold": applied.holds.get(holds.DELETED),
            "first_contact": compared.tally.first_contact,
            "delivered": applied.adopted,
            "already_right": applied.adopted,
        }
        runs.set_values(connection, run, values)


def _totals(sums: Iterable[Sums]) -> dict[str, int]:
    totals = dict.fromkeys(("pulled", "entered", "exited", "changed", "unchanged", "skipped"), 0)
    for trait_sums in sums:
        for name in totals:
            totals[name] += getattr(trait_sums, name)
    return totals


@dataclass
class Writer:
    """Writes a run's changes in bulk: `write` each, then `flush`.

    `recount` takes a change that was counted, and what became of it (None: nothing). `sizes`
    returns members before the run and how many would leave, by trait key, for the record of a hold.
    `forget` says that customers deleted in Segment are to be forgotten. With `differ`, which tells
    who differs at Amberflo, the new customers that do not are acknowledged as they are, and the run
    waits for nobody. With `notes`, the next comparison by fingerprints reads who is written here.
    """

    connection: Connection
    run: int
    now: int
    decision: Decision
    horizon: int = 0
    recount: Callable[[TraitChange, TraitChange | None], None] = lambda counted, made: None
    sizes: Callable[[str], tuple[int, int]] = lambda key: (0, 0)
    forget: bool = False
    differ: Callable[[Collection[str]], Collection[str]] | None = None
    notes: bool = False
    applied: Applied = field(default_factory=Applied)

    def __post_init__(self) -> None:
        self._changes: list[CustomerChange] = []
        self._held: list[tuple[CustomerChange, list[TraitChange]]] = []
        self._size = 0
        self._compared: list[str] = []
        self._kept: dict[str, list[Kept]] = {}
        self._rejected: dict[str, list[str]] = {}
        self._any_exits = early_exits.count(self.connection) > 0

    def write(self, customer: CustomerChange) -> None:
        """Take a customer's change, and keep back what the decision holds of it."""
        kept, held, dropped = self.decision.split(customer)
        for uncounted in dropped:
            self.recount(uncounted, None)
        if kept is None and customer.known and customer.compared:
            self._compared.append(customer.customer_id)
        if held or self.decision.holds_deletion(customer):
            self._held.append((customer, held))
            self._size += size_of(customer)
        if kept is not None:
            # If something is held of the customer, a later run must find its deletion again.
            self._changes.append(kept._replace(deleted=False) if held else kept)
            self._size += size_of(kept)
        if len(self._changes) + len(self._held) >= ROWS or self._size >= CHUNK_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what was taken since the last flush."""
        ids = {customer.customer_id for customer in self._changes}
        ids.update(customer.customer_id for customer, _ in self._held)
        states = {state.customer_id: state for state in snapshot.find(self.connection, ids)}
        if self.notes:
            revisits.note(self.connection, ids)
        # A call that the comparison did not see may stand against what it found.
        late = (state for state in states.values() if came_after(state.event_times, self.horizon))
        self.applied.unsettled += [state.customer_id for state in late]
        for customer, held in self._held:
            self._hold(customer, self._still_to_hold(states.get(customer.customer_id), held))
        new, old = list[CustomerRow](), list[CustomerRow]()
        rows: list[ChangeRow] = []
        exits = self._exits(ids.difference(states))
        equal = self._equal(ids.difference(states, exits))
        for customer in self._changes:
            state = states.get(customer.customer_id)
            if state is None and customer.customer_id in exits:
                overlay = laid_over_exits(customer, exits[customer.customer_id], self.horizon)
                if overlay is None:
                    self._count(customer, [])
                    self.applied.unsettled.append(customer.customer_id)
                    continue
                laid, made = overlay
            else:
                laid, made = laid_over(state, customer, self.horizon)
            if state is None:
                new.append(laid._replace(compared=self.run) if customer.compared else laid)
            elif laid != state or any(change.source == AMBERFLO for change in made):
                old.append(laid)
            self._count(customer, made)
            met = customer.customer_id in equal
            rows += [self._row(customer.customer_id, change, met) for change in made]
            if customer.deleted:
                self._delete(customer.customer_id)
        waiting = self.run if self.differ is None else None
        snapshot.insert_customers(self.connection, new, self.now, waiting)
        early_exits.remove(self.connection, exits.keys() & {row.customer_id for row in new})
        snapshot.update_customers(self.connection, old, self.now, waiting)
        add_changes(self.connection, rows, self.run, self.now)
        if equal:
            adopted = [row._replace(rev=1) for row in new if row.customer_id in equal]
            outbox.acknowledge(self.connection, adopted, self.now)
            self.applied.adopted += len(adopted)
        self._compared += [
            customer.customer_id
            for customer in self._changes
            if customer.compared and customer.customer_id in states
        ]
        snapshot.mark_compared(self.connection, self._compared, self.run)
        self._changes, self._held, self._compared, self._size = [], [], [], 0
        self._flush_held()

    def _exits(self, new: set[str]) -> dict[str, str]:
        """Return the exits that calls said of new customers, while they were not known."""
        return early_exits.find(self.connection, new) if self._any_exits else {}

    def _still_to_hold(
        self, state: CustomerRow | None, held: list[TraitChange]
    ) -> list[TraitChange]:
        """Return what is to be held still: a call since the comparison may have settled it."""
        if state is None:
            return held
        recorded, stamps = orjson.loads(state.traits), read_stamps(state.event_times)
        remaining = []
        for change in held:
            if says_something(change, recorded.get(change.trait), stamps, self.horizon):
                remaining.append(change)
            else:
                self.recount(change, None)
        return remaining

    def _equal(self, new: set[str]) -> set[str]:
        """Return which new customers Amberflo has as they should be, all of them applied."""
        if self.differ is None:
            return set()
        held = {customer.customer_id for customer, _ in self._held}
        return new - held - set(self.differ(new))

    def _hold(self, customer: CustomerChange, held: list[TraitChange]) -> None:
        if not (held or self.decision.holds_deletion(customer)):
            return
        self.applied.held_customers += 1
        self.applied.held.update(change.key for change in held)
        if self.decision.holds_deletion(customer):
            if customer.ruling == "rejected":
                self._stay_rejected(customer.customer_id, holds.DELETED)
            else:
                reason = self.decision.deletions or ""
                row = Kept(customer.customer_id, None, None, None)
                self._keep(holds.DELETED, holds.DELETED, reason, row)
            return
        for change in held:
            obstacle = self.decision.obstacle(change)
            if obstacle == "rejected":
                self._stay_rejected(customer.customer_id, change.trait)
            elif obstacle == "held":
                row = Kept(
                    customer.customer_id,
                    to_json_or_none(change.before),
                    to_json_or_none(change.after),
                    change.observed_at,
                )
                self._keep(change.trait, change.key, self.decision.held[change.key], row)

    def _keep(self, trait: str, key: str, reason: str, row: Kept) -> None:
        if key not in self.applied.holds:
            members, leaving = self.sizes(key)
            self.applied.holds[key] = holds.hold(
                self.connection,
                trait,
                key,
                reason,
                run=self.run,
                now=self.now,
                members=members,
                leaving=leaving,
            )
        self._kept.setdefault(key, []).append(row)
        if len(self._kept[key]) >= ROWS:
            self._flush_kept(key, trait)

    def _stay_rejected(self, customer_id: str, trait: str) -> None:
        """Note that the run found again what was rejected."""
        self._rejected.setdefault(trait, []).append(customer_id)

    def _flush_kept(self, key: str, trait: str) -> None:
        rows = self._kept.pop(key, [])
        holds.keep(self.connection, self.applied.holds[key], trait, rows, self.run, self.now)

    def _flush_held(self) -> None:
        for key in list(self._kept):
            trait = key if key == holds.DELETED else self.decision.catalog.by_key[key].name
            self._flush_kept(key, trait)
        for trait, ids in self._rejected.items():
            holds.find_again(self.connection, trait, ids, self.run)
        self._rejected = {}

    def _delete(self, customer_id: str) -> None:
        self.applied.deleted += 1
        if self.forget:
            suppression.ask(self.connection, customer_id, self.now, self.run)

    def _count(self, customer: CustomerChange, made: list[TraitChange]) -> None:
        if made != customer.changes:
            by_key = {change.key: change for change in made}
            for change in customer.changes:
                if change.source != AMBERFLO or not same(change.before, change.after):
                    self.recount(change, by_key.get(change.key))
        members, traits = self.applied.members, self.decision.catalog.by_key
        for change in made:
            key, kind = change.key, traits[change.key].kind
            members[key] += counts(change.after) - counts(change.was)
            if leaves(change, kind) and change.ruling is None and not customer.deleted:
                self.applied.left[key] += 1

    def _row(self, customer_id: str, change: TraitChange, adopted: bool) -> ChangeRow:
        observed_at = self.now if change.observed_at is None else min(change.observed_at, self.now)
        before, after = to_json_or_none(change.before), to_json_or_none(change.after)
        was = to_json_or_none(change.was) if change.source == AMBERFLO else before
        return ChangeRow(
            customer_id,
            change.key,
            change.trait,
            before,
            after,
            observed_at,
            ADOPTED if adopted and change.source == AMBERFLO else change.source,
            delta_of(was, after),
        )
