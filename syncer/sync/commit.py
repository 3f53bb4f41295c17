"""The commit of a run: its changes laid over the state, the history, and what is held.

All of it is one transaction of the caller's. Calls may have come since the comparison, so changes
are laid over the state as it is now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import orjson
from sqlalchemy import Connection

from state import holds, identify_traits, snapshot, suppression
from state.db.batches import ROWS
from state.db.tables import IDENTIFY
from state.history.record import ChangeRow, add_changes, step_of
from state.holds import Kept
from state.snapshot import CustomerRow
from syncer.chunks import CHUNK_SIZE
from syncer.engage.catalog import KnownTrait
from syncer.engage.values import Value, counts, same
from syncer.event_times import Stamp, read_stamps, write_stamps
from syncer.json_text import canonical, compact_or_none
from syncer.sync.decision import Decision
from syncer.sync.diff import AMBERFLO, CustomerChange, TraitChange, leaves, size_of


@dataclass
class Applied:
    """What a run's changes came to: by key, changes held, members more or less, and members that
    left without an approval; how many customers have something held, and were deleted; the hold of
    each key."""

    held: Counter[str] = field(default_factory=Counter)
    members: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    held_customers: int = 0
    deleted: int = 0
    holds: dict[str, int] = field(default_factory=dict)


@dataclass
class Writer:
    """Writes a run's changes in bulk: `write` each, then `flush`. `recount` is told what becomes of
    a change that was counted; `sizes` gives members before and how many would leave, by key, for a
    hold's record; `forget` says that customers deleted in Segment are to be forgotten."""

    connection: Connection
    run: int
    now: int
    decision: Decision
    horizon: int = 0
    recount: Callable[[TraitChange, TraitChange | None], None] = lambda counted, made: None
    sizes: Callable[[str], tuple[int, int]] = lambda key: (0, 0)
    forget: bool = False
    applied: Applied = field(default_factory=Applied)

    def __post_init__(self) -> None:
        self._changes: list[CustomerChange] = []
        self._size = 0
        self._compared: list[str] = []
        self._kept: dict[str, list[Kept]] = {}
        self._rejected: dict[str, list[str]] = {}

    def write(self, change: CustomerChange) -> None:
        """Take a customer's change, and keep back what the decision holds of it."""
        kept, held, left = self.decision.split(change)
        for one in left:
            self.recount(one, None)
        if kept is None and change.known and change.compared:
            self._compared.append(change.customer_id)
        if held or self.decision.holds_deletion(change):
            self._hold(change, held)
        if kept is not None:
            # Who has something held is not done with: a later run finds the deletion again.
            self._changes.append(kept._replace(deleted=False) if held else kept)
            self._size += size_of(kept)
        if len(self._changes) >= ROWS or self._size >= CHUNK_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write what was taken since the last time."""
        ids = [change.customer_id for change in self._changes]
        there = {one.customer_id: one for one in snapshot.find(self.connection, ids)}
        new: list[CustomerRow] = []
        old: list[CustomerRow] = []
        rows: list[ChangeRow] = []
        for change in self._changes:
            state = there.get(change.customer_id)
            laid, made = laid_over(state, change, self.horizon)
            if state is None:
                new.append(laid)
            elif laid != state or any(one.source == AMBERFLO for one in made):
                old.append(laid)
            self._count(change, made)
            rows += [self._row(change.customer_id, one) for one in made]
            if change.deleted:
                self._delete(change.customer_id)
        snapshot.insert_customers(self.connection, new, self.now, self.run)
        snapshot.update_customers(self.connection, old, self.now, self.run)
        add_changes(self.connection, rows, self.run, self.now)
        self._compared += [change.customer_id for change in self._changes if change.compared]
        snapshot.mark_compared(self.connection, self._compared, self.run)
        self._changes, self._compared, self._size = [], [], 0
        self._flush_held()

    def _hold(self, change: CustomerChange, held: list[TraitChange]) -> None:
        self.applied.held_customers += 1
        self.applied.held.update(one.key for one in held)
        if self.decision.holds_deletion(change):
            if change.ruling == "rejected":
                self._again(change.customer_id, holds.DELETED)
            else:
                reason = self.decision.deletions or ""
                row = Kept(change.customer_id, None, None, None)
                self._keep(holds.DELETED, holds.DELETED, reason, row)
            return
        for one in held:
            if one.ruling == "rejected":
                self._again(change.customer_id, one.trait)
            elif self.decision.guards(one):
                row = Kept(
                    change.customer_id,
                    compact_or_none(one.before),
                    compact_or_none(one.after),
                    one.observed_at,
                )
                self._keep(one.trait, one.key, self.decision.held[one.key], row)

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

    def _again(self, customer_id: str, trait: str) -> None:
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

    def _count(self, change: CustomerChange, made: list[TraitChange]) -> None:
        if made != change.changes:
            by_key = {one.key: one for one in made}
            for one in change.changes:
                if one.source != AMBERFLO or not same(one.before, one.after):
                    self.recount(one, by_key.get(one.key))
        for one in made:
            self.applied.members[one.key] += counts(one.after) - counts(one.was)
            kind = self.decision.catalog.by_key[one.key].kind
            if leaves(one, kind) and one.ruling is None and not change.deleted:
                self.applied.left[one.key] += 1

    def _row(self, customer_id: str, change: TraitChange) -> ChangeRow:
        observed_at = self.now if change.observed_at is None else min(change.observed_at, self.now)
        before, after = compact_or_none(change.before), compact_or_none(change.after)
        return ChangeRow(
            customer_id,
            change.key,
            change.trait,
            before,
            after,
            observed_at,
            change.source,
            step_of(compact_or_none(change.was), after),
        )


def laid_over(
    state: CustomerRow | None, change: CustomerChange, horizon: int
) -> tuple[CustomerRow, list[TraitChange]]:
    """A customer's state with a change laid over it, and what that changed: nothing, where a call
    since the comparison said the same, or something that the pull cannot know of."""
    if state is None:
        traits = canonical(change.traits)
        new = CustomerRow(change.customer_id, traits, change.name, change.email, None, None)
        return new, change.changes
    now = orjson.loads(state.traits)
    stamps = read_stamps(state.stamps)
    kept = dict(stamps)
    made = []
    for one in change.changes:
        stamp = stamps.get(one.trait)
        if stamp is not None and stamp.received > horizon and stamp.at >= (one.observed_at or 0):
            continue
        was: Value | None = now.get(one.trait)
        if one.source == AMBERFLO:
            made.append(one._replace(recorded=was))
        elif same(was, one.after):
            continue
        else:
            made.append(one._replace(before=was))
            kept.pop(one.trait, None)  # what is there now is no call's word any more
        if one.after is None:
            now.pop(one.trait, None)
        else:
            now[one.trait] = one.after
    pulled = (("name", change.name, change.name_at), ("email", change.email, change.email_at))
    taken = {"name": state.name, "email": state.email}
    for key, value, at in pulled:
        if _holds(value, at, stamps.get(key), horizon):
            taken[key] = value
            if key in kept:
                kept[key] = Stamp(at, 0)  # Engage's word, as of its row
    laid = state._replace(traits=canonical(now), name=taken["name"], email=taken["email"])
    return (laid if kept == stamps else laid._replace(stamps=write_stamps(kept))), made


def _holds(pulled: str | None, at: int, stamp: Stamp | None, horizon: int) -> bool:
    """Whether a name or email that was pulled counts: no call since then said a newer one."""
    if pulled is None:
        return False
    return stamp is None or stamp.received <= horizon or stamp.at <= at


def renamed(connection: Connection, given: Mapping[str, KnownTrait], run: int, now: int) -> None:
    """Keys gave their names to others (`given`, by the old key): whoever has the trait goes over,
    with a row for each. Amberflo has it already."""
    for old, trait in given.items():
        after = ""
        while holders := snapshot.with_trait(connection, trait.name, after, ROWS):
            rows, told = [], {}
            for one in holders:
                value = compact_or_none(orjson.loads(one.traits)[trait.name])
                told[one.customer_id] = one.acked_at if one.acked_rev == one.rev else None
                for key, before, now_has in ((old, value, None), (trait.key, None, value)):
                    rows.append(
                        ChangeRow(one.customer_id, key, trait.name, before, now_has, now, "renamed")
                    )
            add_changes(connection, rows, run, now, delivered_at=told)
            after = holders[-1].customer_id


def taken_from_calls(connection: Connection, names: Collection[str], run: int, now: int) -> None:
    """Names that become Engage's are no client's any more: what identify calls said of them goes,
    with a row for each customer; at Amberflo too, where nobody has written something else."""
    for name in set(names) - snapshot.owned(connection):
        after = ""
        while found := snapshot.with_identify_trait(connection, name, after, ROWS):
            rows, left = [], []
            for state in found:
                said = identify_traits.load(state.called)
                was = said.get(name)
                if was is None:
                    continue
                said[name] = was.says(None, now)
                left.append(state._replace(called=identify_traits.dump(said)))
                if was.value is not None:
                    before = compact_or_none(was.value)
                    rows.append(
                        ChangeRow(
                            state.customer_id, name, name, before, None, now, IDENTIFY, step=0
                        )
                    )
            snapshot.update_customers(connection, left, now, run)
            add_changes(connection, rows, run, now)
            after = found[-1].customer_id
