"""A run: pull, compare, guard, commit, deliver; and the proof that its sums close.

Everything before the commit leaves the database as it was, apart from the record of the run. The
commit is one transaction. Delivery sends what is due, from this run and from earlier ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import orjson
from sqlalchemy import Connection

from state import failures, forgotten, runs, seal, snapshot
from state.database import Database
from state.lock import run_lock
from state.snapshot import ChangeRow, CustomerState, TraitRow
from syncer.amberflo.delivery import Delivery
from syncer.engage import catalog as catalogs
from syncer.engage.catalog import AUDIENCE, Catalog, KnownTrait, canonical
from syncer.engage.source import (
    ChangedSince,
    Everything,
    OnlyCustomer,
    Pull,
    PulledCustomer,
    Scope,
    Source,
    WithoutCustomerId,
)
from syncer.engage.values import milliseconds
from syncer.errors import NotFound, SourceError, StateError, Stopped, SyncerError
from syncer.sync.compare import (
    CustomerChange,
    Pair,
    Sums,
    Tally,
    TraitChange,
    compare,
    look_up,
    merge,
)
from syncer.sync.forget import check_not_forgotten, without_forgotten
from syncer.sync.guard import Guard
from syncer.sync.plan import Plan

RunKind = Literal["initial", "incremental", "reconcile", "resync"]

#: So long (milliseconds) Engage may take to bring what a call said into the source: Profiles Sync
#: loads hourly, slightly out of order (facts/segment.md §1.3).
LOADED_AFTER = 3 * 3600 * 1000
#: An approval covers what was seen; so much more may have come since.
APPROVAL_SLACK, APPROVAL_SLACK_MIN = 1.2, 10


class Progress(Protocol):
    """Where long work tells how far it is."""

    def say(self, text: str) -> None:
        """One line for the user."""

    def begin(self, stage: str, total: int) -> None:
        """A stage begins that will do `total` customers."""

    def at(self, done: int) -> None:
        """So many are done."""

    def end(self) -> None:
        """The stage ended."""


@dataclass(frozen=True)
class Selection:
    """What of Engage is ours: the globs of the config, and whatever else a change of which makes
    the snapshot incomparable with a partial pull (`settings` is a text that holds all of it)."""

    audiences: tuple[str, ...]
    computed_traits: tuple[str, ...]
    settings: str


@dataclass(frozen=True)
class Approval:
    """Somebody's word that what a run held may go through: held changes by trait key."""

    run: int
    held: dict[str, int]


@dataclass
class Compared:
    """What a run would do. `held` maps trait keys to the guard's reason; close it when done."""

    kind: RunKind
    scope: Scope
    catalog: Catalog
    tally: Tally
    plan: Plan
    held: dict[str, str]
    members: dict[str, int]
    watermark: str | None
    without_id: WithoutCustomerId

    @property
    def whole(self) -> bool:
        return isinstance(self.scope, Everything)

    def close(self) -> None:
        self.plan.close()

    def split(self, change: CustomerChange) -> tuple[CustomerChange | None, list[TraitChange]]:
        """What of a customer's change goes through (None: nothing), and what is held."""
        back = [one for one in change.changes if one.key in self.held]
        if not back:
            return change, []
        kept = [one for one in change.changes if one.key not in self.held]
        traits = dict(change.traits)
        for one in back:
            if one.before is None:
                traits.pop(one.trait, None)
            else:
                traits[one.trait] = one.before
        if not change.known and not self._somebody(traits):
            # Nobody to send without what is held: all of it waits.
            return None, change.changes
        return change._replace(traits=traits, changes=kept), back

    def _somebody(self, traits: dict[str, Any]) -> bool:
        kinds = self.catalog.by_name
        return any(value is True or kinds[name].kind != AUDIENCE for name, value in traits.items())


@dataclass
class Result:
    """How a run ended. `problems` are lines for the user; the run is good without any."""

    run: int
    kind: str
    state: str
    held: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = field(default_factory=Delivery)
    problems: list[str] = field(default_factory=list)


Deliver = Callable[[int, Callable[[int], None]], Delivery]


@dataclass
class Runs:
    """Makes runs on a state database. `deliver` sends all that is due by a time, telling a callback
    how many are done; `stop` says whether the user asked to stop; `clock` is epoch milliseconds."""

    database: Database
    source: Source
    selection: Selection
    guard: Guard
    deliver: Deliver
    progress: Progress
    #: held from before a commit until it is delivered: no other process sends what a run made due
    delivery_lock: Callable[[], AbstractContextManager[None]] = nullcontext
    stop: Callable[[], bool] = lambda: False
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    # What the command line asks for

    def sync(self, *, full: bool = False) -> Result:
        """One run now, until delivered."""
        with run_lock(self.database):
            return self._run(*self._next(full))

    def resync(self, *, audience: str | None = None, customer_id: str | None = None) -> Result:
        """Pull and send again: everybody, everybody who is or was in an audience, or one."""
        with run_lock(self.database):
            if customer_id is not None:
                with self.database.read() as connection:
                    check_not_forgotten(connection, customer_id)
                return self._run("resync", OnlyCustomer(customer_id), again=(None, customer_id))
            if audience is not None:
                with self.database.read() as connection:
                    keys = {row.key for row in snapshot.traits(connection)}
                if audience not in keys:
                    raise NotFound(f"no trait with the key {audience!r} was ever synced")
            return self._run("resync", Everything(), again=(audience, None))

    def approve(self, run: int) -> Result:
        """Compare everything anew and let through what the guard held in that run."""
        with run_lock(self.database):
            return self._run("reconcile", Everything(), approval=self._held_run(run))

    def reject(self, run: int) -> None:
        """Leave what the guard held in that run as it is; a later compare may find it again."""
        with run_lock(self.database):
            self._held_run(run)
            with self.database.write() as connection:
                runs.set_values(connection, run, {"state": runs.REJECTED})

    def retry(self, failed: Collection[int]) -> Delivery:
        """Send customers again that Amberflo refused, by the numbers of their failures."""
        with run_lock(self.database), self.delivery_lock():
            with self.database.write() as connection:
                for failure in failures.find(connection, failed):
                    snapshot.send_again(
                        connection, self.clock(), customer_id=str(failure["customer_id"])
                    )
                failures.remove(connection, failed)
                due = snapshot.backlog(connection)
            return self._send(due, self.clock())

    def diff(self, *, full: bool = False) -> Compared:
        """What the next run would change; writes nothing and asks Amberflo nothing."""
        return self._compare(*self._next(full), approval=None)

    def without_customer_id(self, compared: Compared) -> Iterator[str]:
        """The Segment ids of the profiles that the comparison had to leave out."""
        with self.source.pull(compared.scope) as pull:
            yield from pull.profiles_without_customer_id(compared.catalog.keys)

    # The run, top-down

    def _next(self, full: bool) -> tuple[RunKind, Scope]:
        """Which run is next, and what it has to pull."""
        with self.database.read() as connection:
            last = runs.last_whole(connection)
        if last is None:
            return "initial", Everything()
        if full:
            return "reconcile", Everything()
        if last["settings"] != self.selection.settings:
            self.progress.say("the engage settings changed since the last run: comparing all")
            return "reconcile", Everything()
        if not last["watermark"]:
            return "incremental", Everything()
        return "incremental", ChangedSince(str(last["watermark"]))

    def _run(
        self,
        kind: RunKind,
        scope: Scope,
        *,
        approval: Approval | None = None,
        again: tuple[str | None, str | None] | None = None,
    ) -> Result:
        with self.database.write() as connection:
            for cut_off in runs.take_up(connection, self.clock()):
                self.progress.say(f"run {cut_off} was cut off; this one takes up what it left")
            run = runs.start(connection, kind, self.clock(), self.selection.settings)
        with self._recorded(run):
            compared = self._compare(kind, scope, approval)
            with closing(compared), self.delivery_lock():
                due, now = self._commit(run, compared, approval, again)
                delivery = self._send(due, now)
                return self._finish(run, compared, delivery, now)

    def _compare(self, kind: RunKind, scope: Scope, approval: Approval | None) -> Compared:
        whole = isinstance(scope, Everything)
        with self.source.pull(scope) as pull, self.database.read() as connection:
            rows = snapshot.traits(connection)
            known = [KnownTrait(row.key, row.trait, _kind(row.kind)) for row in rows]
            catalog = catalogs.build(
                pull.observed(),
                known,
                audiences=self.selection.audiences,
                computed_traits=self.selection.computed_traits,
            )
            members = {
                catalog.by_name[row.trait].key: row.members
                for row in rows
                if row.trait in catalog.by_name
            }
            watermark = pull.watermark()
            tally = Tally(catalog)
            plan = Plan()
            try:
                self._fill(plan, pull, connection, catalog, tally, whole)
                without_id = pull.without_customer_id(catalog.keys)
                if isinstance(scope, OnlyCustomer):
                    without_id = WithoutCustomerId(0, {})
                    if not tally.customers and not snapshot.find(connection, [scope.customer_id]):
                        raise NotFound(f"Engage has no customer {scope.customer_id!r}")
            except BaseException:
                plan.close()
                raise
            pending = runs.held_keys(connection)
        lost = catalog.by_key.keys() - set(catalog.keys)
        held = self.guard.held(tally.sums, members, whole=whole, pending=pending, lost=lost)
        for key, seen in (approval.held if approval else {}).items():
            if tally.sums[key].differing <= max(seen * APPROVAL_SLACK, seen + APPROVAL_SLACK_MIN):
                held.pop(key, None)
            elif key in held:
                held[key] += f"; the approval was for {seen:,}"
        for key, count in without_id.rows.items():
            tally.sums[key].pulled += count
            tally.sums[key].reasons["no customer id"] += count
        _check_sums(tally)
        return Compared(
            kind=kind,
            scope=scope,
            catalog=catalog,
            tally=tally,
            plan=plan,
            held=held,
            members=members,
            watermark=None if isinstance(scope, OnlyCustomer) else (watermark or ""),
            without_id=without_id,
        )

    def _fill(
        self,
        plan: Plan,
        pull: Pull,
        connection: Connection,
        catalog: Catalog,
        tally: Tally,
        whole: bool,
    ) -> None:
        """Compare the whole stream into the plan; all or nothing."""
        newest = milliseconds(pull.watermark()) or self.clock()
        horizon = min(newest, self.clock()) - LOADED_AFTER
        counted = pull.count(catalog.keys)
        self.progress.begin("comparing", counted.customers)
        # Closed here: a stop in the middle must not leave a cursor open behind its connection.
        with (
            closing(pull.customers(catalog.keys)) as customers,
            closing(snapshot.customers(connection)) as known,
        ):
            pulled = self._watched(customers)
            pairs: Iterable[Pair] = (
                merge(pulled, known)
                if whole
                else look_up(pulled, lambda ids: snapshot.find(connection, ids))
            )
            pairs = without_forgotten(pairs, forgotten.load(connection), tally)
            for change in compare(pairs, catalog, tally, horizon):
                plan.append(change)
        self.progress.end()
        if (tally.customers, tally.rows) != (counted.customers, counted.rows):
            raise SourceError(
                f"the pull ended early: {tally.customers:,} customers with {tally.rows:,} rows of "
                f"{counted.customers:,} with {counted.rows:,} that the source counts"
            )

    def _watched(self, pulled: Iterator[PulledCustomer]) -> Iterator[PulledCustomer]:
        """The same, with progress, until a stop."""
        for number, row in enumerate(pulled):
            if number % 2048 == 0:
                self.progress.at(number)
                self._check_stop()
            yield row

    def _commit(
        self,
        run: int,
        compared: Compared,
        approval: Approval | None,
        again: tuple[str | None, str | None] | None,
    ) -> tuple[int, int]:
        """Snapshot, history, what is due and the run's sums, in one transaction; gives how many
        customers are due, and since when."""
        self._check_stop()
        now = self.clock()
        with self.database.write() as connection:
            held_changes, held_customers, members = self._apply(connection, run, compared, now)
            snapshot.put_traits(
                connection,
                [
                    TraitRow(trait.key, trait.name, trait.kind, members.get(trait.key, 0))
                    for trait in compared.catalog.by_name.values()
                ],
            )
            if again is not None:
                key, customer_id = again
                snapshot.send_again(connection, now, key=key, customer_id=customer_id)
            snapshot.hasten(connection, now)
            if approval is not None:
                runs.set_values(connection, approval.run, {"state": runs.APPROVED})
            if compared.whole:
                runs.supersede(connection, before=run)
            runs.add_traits(connection, run, trait_sums(compared, held_changes))
            due = snapshot.backlog(connection)
            values = {
                **_totals(compared.tally.sums.values()),
                "committed_at": now,
                "watermark": compared.watermark,
                "without_customer_id": compared.without_id.profiles,
                "due": due + held_customers,
                "held": held_customers,
            }
            runs.set_values(connection, run, values)
            seal.seal(connection, run, now)
        return due, now

    def _apply(
        self, connection: Connection, run: int, compared: Compared, now: int
    ) -> tuple[dict[str, int], int, dict[str, int]]:
        """Write the plan less what is held. Gives held changes by key, customers with one, and by
        how many the members of each key went up or down."""
        held_changes: dict[str, int] = {}
        members: dict[str, int] = {}
        held_customers = 0
        writer = _Writer(connection, run, now)
        for number, change in enumerate(compared.plan):
            if number % 2048 == 0:
                self._check_stop()
            kept, back = compared.split(change)
            held_customers += bool(back)
            for one in back:
                held_changes[one.key] = held_changes.get(one.key, 0) + 1
            if kept is not None:
                writer.write(kept)
                for one in kept.changes:
                    delta = _counts(one.after) - _counts(one.before)
                    members[one.key] = members.get(one.key, 0) + delta
        writer.flush()
        return held_changes, held_customers, members

    def _send(self, due: int, until: int) -> Delivery:
        """Send what is due by then: what calls make due meanwhile is not this run's to wait for."""
        self.progress.begin("delivering", due)
        try:
            return self.deliver(until, self.progress.at)
        finally:
            self.progress.end()

    def _finish(self, run: int, compared: Compared, delivery: Delivery, until: int) -> Result:
        """Close the run's sums: due = delivered + failed + held."""
        with self.database.write() as connection:
            record = runs.get(connection, run)
            assert record is not None
            left = snapshot.backlog(connection, until)
            due = delivery.delivered + delivery.failed + int(record["held"]) + left
            result = Result(run, compared.kind, runs.DONE, compared.held, delivery)
            result.problems += compared.catalog.messages
            if delivery.failed:
                result.problems.append(
                    f"Amberflo refused {delivery.failed:,} customers for good: `syncer failures` "
                    "lists them"
                )
            if left:
                result.state = runs.INTERRUPTED if delivery.stopped else runs.FAILED
                result.problems.append(
                    f"{left:,} of {due:,} customers are not delivered and stay due"
                    + (f": {delivery.problem}" if delivery.problem else "")
                )
            elif compared.held:
                result.state = runs.HELD
            values = {
                "state": result.state,
                "ended_at": self.clock(),
                "due": due,
                "delivered": delivery.delivered,
                "failed": delivery.failed,
                "error": "; ".join(result.problems) or None,
            }
            runs.set_values(connection, run, values)
        return result

    @contextmanager
    def _recorded(self, run: int) -> Iterator[None]:
        """A run that ends in an error says so in its record."""
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            # Where the database itself is the trouble, the next start finds the run cut off.
            with suppress(StateError), self.database.write() as connection:
                values = {
                    "state": runs.INTERRUPTED if stopped else runs.FAILED,
                    "ended_at": self.clock(),
                    "error": str(error) or type(error).__name__,
                }
                runs.set_values(connection, run, values)
            raise

    def _check_stop(self) -> None:
        if self.stop():
            raise Stopped("stopped before anything was changed; the next run starts anew")

    def _held_run(self, run: int) -> Approval:
        """What a run holds, where it waits for a decision."""
        with self.database.read() as connection:
            record = runs.get(connection, run)
            if record is None:
                raise NotFound(f"there is no run {run}; `syncer runs` lists them")
            if record["state"] != runs.HELD:
                raise NotFound(
                    f"run {run} is {record['state']}: it holds nothing that waits for a decision"
                )
            rows = runs.traits(connection, run)
        return Approval(run, {str(row["key"]): int(row["held"]) for row in rows if row["held"]})


class _Writer:
    """Gathers a run's changes and writes them in bulk. A customer that a call changed since the
    comparison keeps what the call said: changes are laid over the state as it is now."""

    def __init__(self, connection: Connection, run: int, now: int) -> None:
        self._connection, self._run, self._now = connection, run, now
        self._gathered: list[CustomerChange] = []

    def write(self, change: CustomerChange) -> None:
        self._gathered.append(change)
        if len(self._gathered) >= snapshot.CHUNK:
            self.flush()

    def flush(self) -> None:
        ids = [change.customer_id for change in self._gathered]
        there = {one.customer_id: one for one in snapshot.states(self._connection, ids)}
        new: list[CustomerState] = []
        old: list[CustomerState] = []
        changes: list[ChangeRow] = []
        for change in self._gathered:
            state = there.get(change.customer_id)
            (new if state is None else old).append(laid_over(state, change))
            changes += [self._row(change.customer_id, one) for one in change.changes]
        snapshot.insert_customers(self._connection, new, self._now)
        snapshot.update_customers(self._connection, old, self._now)
        snapshot.add_changes(self._connection, changes, self._run, self._now)
        self._gathered = []

    def _row(self, customer_id: str, change: TraitChange) -> ChangeRow:
        observed_at = self._now if change.observed_at is None else change.observed_at
        before, after = _json(change.before), _json(change.after)
        return ChangeRow(customer_id, change.key, change.trait, before, after, observed_at)


def laid_over(state: CustomerState | None, change: CustomerChange) -> CustomerState:
    """A customer's state with a change laid over it."""
    if state is None:
        traits = canonical(change.traits)
        return CustomerState(change.customer_id, traits, change.name, change.email, None, None)
    traits_now = orjson.loads(state.traits)
    for one in change.changes:
        if one.after is None:
            traits_now.pop(one.trait, None)
        else:
            traits_now[one.trait] = one.after
    return state._replace(
        traits=canonical(traits_now),
        name=change.name or state.name,
        email=change.email or state.email,
    )


def trait_sums(compared: Compared, held: dict[str, int]) -> list[dict[str, Any]]:
    """The sums by trait, for the run's record and for `diff`; traits that nothing came of are
    left out."""
    return [
        {
            "key": trait.key,
            "trait": trait.name,
            "kind": trait.kind,
            "pulled": sums.pulled,
            "entered": sums.entered,
            "exited": sums.exited,
            "changed": sums.changed,
            "unchanged": sums.unchanged,
            "skipped": sums.skipped,
            "held": held.get(trait.key, 0),
            "reasons": orjson.dumps(sums.reasons, option=orjson.OPT_SORT_KEYS).decode(),
        }
        for key, sums in compared.tally.sums.items()
        if sums.pulled and (trait := compared.catalog.by_key[key])
    ]


def _check_sums(tally: Tally) -> None:
    for key, sums in tally.sums.items():
        parts = sums.unchanged + sums.entered + sums.exited + sums.changed + sums.skipped
        if sums.pulled != parts:
            raise SyncerError(
                f"the sums of {key!r} do not close: pulled {sums.pulled:,}, but unchanged, "
                f"entered, exited, changed and skipped are {parts:,}; nothing was changed"
            )


def _totals(sums: Iterable[Sums]) -> dict[str, int]:
    names = ("pulled", "entered", "exited", "changed", "unchanged", "skipped")
    found = list(sums)
    return {name: sum(getattr(one, name) for one in found) for name in names}


def _counts(value: Any) -> int:
    """1 for a member of an audience or a holder of a computed trait."""
    return 0 if value is None or value is False else 1


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _kind(text: str) -> catalogs.Kind:
    return AUDIENCE if text == AUDIENCE else catalogs.COMPUTED_TRAIT
