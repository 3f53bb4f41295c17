"""A run: pull, compare, guard, commit, deliver; and the proof that its sums close.

Everything before the commit leaves the database as it was, apart from the record of the run. The
commit is one transaction. Delivery sends what is due, from this run and from earlier ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

import orjson
from sqlalchemy import Connection

from state import failures, forgotten, holds, runs, seal, snapshot
from state.database import Database
from state.lock import Check, run_lock
from state.snapshot import ChangeRow, CustomerState, TraitRow
from syncer.amberflo.delivery import Delivery
from syncer.engage import catalog as catalogs
from syncer.engage.catalog import AUDIENCE, Catalog, KnownTrait, canonical
from syncer.engage.listing import UNLISTED, Computation, Listing
from syncer.engage.source import (
    ChangedSince,
    Everything,
    OnlyCustomers,
    Pull,
    PulledCustomer,
    Scope,
    Source,
    WithoutCustomerId,
)
from syncer.engage.values import milliseconds
from syncer.errors import NotFound, SourceError, StateError, Stopped, SyncerError
from syncer.sync import gate
from syncer.sync.account import Account
from syncer.sync.compare import (
    CustomerChange,
    Pair,
    Sums,
    Tally,
    TraitChange,
    compare,
    look_up,
    merge,
    same,
)
from syncer.sync.contact import Contact, FirstContact
from syncer.sync.forget import check_not_forgotten, without_forgotten
from syncer.sync.gate import Mismatch
from syncer.sync.guard import Guard
from syncer.sync.plan import Plan
from syncer.sync.progress import Progress

RunKind = Literal["initial", "incremental", "reconcile", "resync"]

#: So long (milliseconds) Engage may take to bring what a call said into the source: Profiles Sync
#: loads hourly, slightly out of order (facts/segment.md §1.3).
LOADED_AFTER = 3 * 3600 * 1000
#: An approval covers what was seen; so much more may have come since.
APPROVAL_SLACK, APPROVAL_SLACK_MIN = 1.2, 10


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


@dataclass(frozen=True)
class Again:
    """Who is to be sent again, changed or not: who is or was in an audience, the named customers,
    or, with neither, everybody; `less_held`: but nobody of whom something is held."""

    audience: str | None = None
    customer_ids: Iterable[str] | None = None
    less_held: bool = False


@dataclass
class Compared:
    """What a run would do. `held` maps trait keys to the guard's reason, `waiting` those of which
    what leaves waits for Segment to the reason of that; close it when done."""

    kind: RunKind
    scope: Scope
    catalog: Catalog
    tally: Tally
    plan: Plan
    held: dict[str, str]
    members: dict[str, int]
    watermark: str | None
    without_id: WithoutCustomerId
    #: what came by a call after this (epoch milliseconds), the pull need not know of yet
    horizon: int
    #: what the Public API says; None where it is not asked
    listing: Listing | None = None
    waiting: dict[str, str] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    #: what Amberflo holds that the state does not know of; None where it was not read
    first_contact: FirstContact | None = None

    @property
    def whole(self) -> bool:
        return isinstance(self.scope, Everything)

    def close(self) -> None:
        self.plan.close()

    def split(self, change: CustomerChange) -> tuple[CustomerChange | None, list[TraitChange]]:
        """What of a customer's change goes through (None: nothing), and what is held."""
        back = [one for one in change.changes if self.holds(one)]
        if not back:
            return change, []
        kept = [one for one in change.changes if not self.holds(one)]
        if change.known and not kept and change.name is None and change.email is None:
            return None, back
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

    def holds(self, one: TraitChange) -> bool:
        """Whether a change is not applied, for the guard's sake or until Segment is ready."""
        return one.key in self.held or self.waits(one)

    def waits(self, one: TraitChange) -> bool:
        return one.key in self.waiting and gate.leaves(one, self.catalog.by_key[one.key].kind)

    def waiting_changes(self, key: str) -> int:
        """How many changes of a trait wait for Segment."""
        return self.tally.sums[key].leaving if key in self.waiting else 0

    def _somebody(self, traits: dict[str, Any]) -> bool:
        kinds = self.catalog.by_name
        return any(value is True or kinds[name].kind != AUDIENCE for name, value in traits.items())


@dataclass
class Result:
    """How a run ended. `problems` are lines for the user; the run is good without any. `waiting`
    and `mismatches` are for the user to know."""

    run: int
    kind: str
    state: str
    held: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = field(default_factory=Delivery)
    problems: list[str] = field(default_factory=list)
    #: trait keys of which what leaves waits for Segment, with the reason
    waiting: dict[str, str] = field(default_factory=dict)
    #: audiences of which Segment counts another number of members
    mismatches: list[Mismatch] = field(default_factory=list)


Deliver = Callable[[int, Callable[[int], None]], Delivery]

#: What stands for a run where customers are sent again by hand and no run waits for them.
BY_HAND = 0


@dataclass
class Runs:
    """Makes runs on a state database. `deliver` sends all that a run waits for, telling a callback
    how many are done; `stop` says whether the user asked to stop; `clock` is epoch milliseconds."""

    database: Database
    source: Source
    selection: Selection
    guard: Guard
    deliver: Deliver
    progress: Progress
    #: seconds to wait for the end of another run, such as a short one of the daemon
    patience: float = 2.0
    stop: Callable[[], bool] = lambda: False
    #: the Amberflo account that is delivered to; None where that is not to be checked
    account: Account | None = None
    #: reads what Amberflo holds, for a full compare; None where that is not to be looked at
    look: Callable[[], AbstractContextManager[Contact]] | None = None
    #: what the Public API lists; None where it is not to be asked
    computations: Callable[[], list[Computation]] | None = None
    #: a share of Segment's count of an audience by which ours may differ
    size_tolerance: float = 0.05
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    # What the command line asks for

    def sync(self, *, full: bool = False, new_account: bool = False) -> Result:
        """One run now, until delivered. With `new_account` everybody is sent, to an account that
        has nothing of ours yet."""
        with run_lock(self.database, self.patience) as check:
            if new_account and self.account is not None:
                self.account.begin_anew(self.clock())
            return self._run(*self._next(full or new_account), check=check)

    def resync(self, *, audience: str | None = None, customer_id: str | None = None) -> Result:
        """Pull and send again: everybody, everybody who is or was in an audience, or one."""
        with run_lock(self.database, self.patience) as check:
            if customer_id is not None:
                again = Again(customer_ids=[customer_id])
                with self.database.read() as connection:
                    check_not_forgotten(connection, customer_id)
                return self._run("resync", OnlyCustomers((customer_id,)), check=check, again=again)
            if audience is not None:
                with self.database.read() as connection:
                    keys = {row.key for row in snapshot.traits(connection)}
                if audience not in keys:
                    raise NotFound(f"no trait with the key {audience!r} was ever synced")
            return self._run("resync", Everything(), check=check, again=Again(audience))

    def approve(self, run: int) -> Result:
        """Compare everything anew and let through what the guard held in that run."""
        with run_lock(self.database, self.patience) as check:
            approval = self._held_run(run)
            return self._run("reconcile", Everything(), check=check, approval=approval)

    def reject(self, run: int) -> None:
        """Leave what the guard held in that run as it is; a later compare may find it again."""
        with run_lock(self.database, self.patience):
            self._held_run(run)
            with self.database.write() as connection:
                runs.set_values(connection, run, {"state": runs.REJECTED})

    def retry(self, failed: Collection[int]) -> Delivery:
        """Send customers again that Amberflo refused, by the numbers of their failures."""
        with self.database.read() as connection:
            found = failures.find(connection, failed)
        return self.send_again([str(failure["customer_id"]) for failure in found])

    def send_again(self, customer_ids: Iterable[str]) -> Delivery:
        """Send known customers as they are to be, whatever Amberflo has of them."""
        rest, due, began = iter(customer_ids), 0, self.clock()
        with run_lock(self.database, self.patience):
            with self.database.write(alone=True) as connection:
                while ids := list(islice(rest, snapshot.CHUNK)):
                    failures.clear(connection, [failures.customer_ref(one) for one in ids])
                    due += snapshot.send_again(connection, began, customer_ids=ids, run=BY_HAND)
            delivery = self._send(BY_HAND, due)
            with self.database.read() as connection:
                refused = failures.customers_since(connection, began)
                left = snapshot.backlog(connection, BY_HAND)
        return replace(delivery, delivered=max(due - refused - left, 0), failed=refused)

    def repair(self, customer_ids: Iterable[str]) -> Delivery:
        """Compare everything with Engage anew, so that an old state puts nothing old back, and send
        the named customers again, less those of whom something is held."""
        with run_lock(self.database, self.patience) as check:
            again = Again(customer_ids=customer_ids, less_held=True)
            result = self._run("reconcile", Everything(), check=check, again=again)
        for key, reason in result.held.items():
            self.progress.say(f"held: {key}: {reason}")
        return result.delivery

    def diff(self, *, full: bool = False, contact: Contact | None = None) -> Compared:
        """What the next run would change; writes nothing and asks Amberflo nothing. With `contact`
        it is a full one, which says what Amberflo holds besides."""
        return self._compare(*self._next(full or contact is not None), None, contact)

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
        check: Check,
        approval: Approval | None = None,
        again: Again | None = None,
    ) -> Result:
        with self.database.write() as connection:
            for cut_off in runs.take_up(connection, self.clock()):
                self.progress.say(f"run {cut_off} was cut off; this one takes up what it left")
            run = runs.start(connection, kind, self.clock(), self.selection.settings)
        with self._recorded(run):
            if self.account is not None:
                self.account.check()
            with closing(self._compare(kind, scope, approval)) as compared:
                check()  # nobody else runs: what was compared is still so
                due = self._commit(run, compared, approval, again)
                result = Result(run, kind, runs.DONE, compared.held)
                result.waiting, result.mismatches = compared.waiting, compared.mismatches
                result.problems += compared.catalog.messages
            with self.database.read() as connection:
                done = runs.done_before(connection, run)
            result.delivery = self._send(run, due, done)
            return self._finish(result)

    def _compare(
        self,
        kind: RunKind,
        scope: Scope,
        approval: Approval | None,
        contact: Contact | None = None,
    ) -> Compared:
        whole = isinstance(scope, Everything)
        listing = self._listing()  # asked before the pull: it may take minutes
        with self.source.pull(scope) as pull, self.database.read() as connection:
            rows = snapshot.traits(connection)
            statuses = {row.key: row.status for row in rows}
            known = [KnownTrait(row.key, row.trait, _kind(row.kind)) for row in rows]
            catalog = catalogs.build(
                pull.observed(),
                known,
                audiences=self.selection.audiences,
                computed_traits=self.selection.computed_traits,
                listed=listing.kinds if listing else None,
            )
            if listing and listing.problem:
                catalog.messages.append(listing.problem)
            members = {
                catalog.by_name[row.trait].key: row.members
                for row in rows
                if row.trait in catalog.by_name
            }
            watermark = pull.watermark()
            tally = Tally(catalog)
            plan = Plan()
            try:
                first = contact.first_contact(catalog) if contact else None
                horizon = self._fill(plan, pull, connection, catalog, tally, whole, first)
                without_id = pull.without_customer_id(catalog.keys)
                if isinstance(scope, OnlyCustomers):
                    without_id = WithoutCustomerId(0, {})
                    if not tally.customers and not snapshot.find(connection, scope.customer_ids):
                        named = ", ".join(map(repr, scope.customer_ids))
                        raise NotFound(f"Engage has no customer {named}")
            except BaseException:
                plan.close()
                raise
            pending = runs.held_keys(connection)
        lost = catalog.by_key.keys() - set(catalog.keys)
        held = self.guard.held(
            tally.sums,
            members,
            whole=whole,
            pending=pending,
            lost=lost,
            unlisted=catalog.unlisted,
            waiting=gate.waiting(listing, tally.sums, ()) if listing else (),
        )
        for key, seen in (approval.held if approval else {}).items():
            if tally.sums[key].differing <= max(seen * APPROVAL_SLACK, seen + APPROVAL_SLACK_MIN):
                held.pop(key, None)
            elif key in held:
                held[key] += f"; the approval was for {seen:,}"
        for key, count in without_id.rows.items():
            tally.sums[key].pulled += count
            tally.sums[key].reasons["no customer id"] += count
        _check_sums(tally)
        waiting = gate.waiting(listing, tally.sums, held) if listing else {}
        told = listing is None or not gate.unseen(listing, catalog, statuses, whole=whole)
        if waiting or not told:
            watermark = None  # no row is settled by this run: the next one compares everything
        return Compared(
            kind=kind,
            scope=scope,
            catalog=catalog,
            tally=tally,
            plan=plan,
            held=held,
            members=members,
            watermark=None if isinstance(scope, OnlyCustomers) else (watermark or ""),
            without_id=without_id,
            horizon=horizon,
            first_contact=first,
            listing=listing,
            waiting=waiting,
            mismatches=gate.mismatches(
                listing,
                gate.members_after(tally.sums, members, held, waiting),
                self.selection.audiences,
                self.size_tolerance,
            )
            if listing and whole
            else [],
        )

    def _listing(self) -> Listing | None:
        """What the Public API lists; where it cannot be read, what earlier runs knew as ours."""
        if self.computations is None:
            return None
        try:
            return Listing.of(self.computations())
        except SourceError as error:
            with self.database.read() as connection:
                rows = snapshot.traits(connection)
            known = {row.key: _kind(row.kind) for row in rows if row.status != UNLISTED}
            if not known:
                raise SourceError(
                    f"{error}; no earlier run knows which traits are audiences, so nothing was sent"
                ) from None
            problem = f"{error}; until it can be read, nothing that left is taken out"
            return Listing(known, problem=problem)

    def _fill(
        self,
        plan: Plan,
        pull: Pull,
        connection: Connection,
        catalog: Catalog,
        tally: Tally,
        whole: bool,
        first: FirstContact | None = None,
    ) -> int:
        """Compare the whole stream into the plan; all or nothing. Gives the horizon."""
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
            if first is not None:
                pairs = first.noting(pairs)
            for change in compare(pairs, catalog, tally, horizon):
                plan.append(change)
        self.progress.end()
        if (tally.customers, tally.rows) != (counted.customers, counted.rows):
            raise SourceError(
                f"the pull ended early: {tally.customers:,} customers with {tally.rows:,} rows of "
                f"{counted.customers:,} with {counted.rows:,} that the source counts"
            )
        return horizon

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
        again: Again | None,
    ) -> int:
        """Snapshot, history, what is due and the run's sums, in one transaction; gives how many
        customers are due."""
        self._check_stop()
        now = self.clock()
        with self.database.write(alone=True) as connection:
            held_changes, held_customers, members = self._apply(connection, run, compared, now)
            snapshot.put_traits(
                connection,
                [
                    TraitRow(trait.key, trait.name, trait.kind, members.get(trait.key, 0))
                    for trait in compared.catalog.by_name.values()
                ],
            )
            _describe_traits(connection, compared)
            if again is not None:
                _send_again(connection, again, now)
            if approval is not None:
                runs.set_values(connection, approval.run, {"state": runs.APPROVED})
            if compared.whole:
                runs.supersede(connection, before=run)
            runs.add_traits(connection, run, trait_sums(compared, held_changes))
            due = snapshot.take_over(connection, run, now)
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
        return due

    def _apply(
        self, connection: Connection, run: int, compared: Compared, now: int
    ) -> tuple[dict[str, int], int, dict[str, int]]:
        """Write the plan less what is held. Gives held changes by key, customers with one, and by
        how many the members of each key went up or down."""
        held_changes: dict[str, int] = {}
        held_customers = 0
        writer = _Writer(connection, run, now, compared.horizon, compared.tally.recount)
        for number, change in enumerate(compared.plan):
            if number % 2048 == 0:
                self._check_stop()
            kept, back = compared.split(change)
            held_customers += bool(back)
            for one in back:
                held_changes[one.key] = held_changes.get(one.key, 0) + 1
            if kept is not None:
                writer.write(kept)
        writer.flush()
        return held_changes, held_customers, writer.members

    def _send(self, run: int, due: int, done: int = 0) -> Delivery:
        """Deliver what the run waits for: what calls make due meanwhile is not its to wait for.
        `done` were delivered by the runs before it that were cut off."""
        self.progress.begin("delivering", due + done, done)
        try:
            return self.deliver(run, lambda finished: self.progress.at(done + finished))
        finally:
            self.progress.end()

    def _finish(self, result: Result) -> Result:
        """Close the run's sums: due = delivered + failed + held."""
        with self.database.write() as connection:
            record = runs.get(connection, result.run)
            assert record is not None
            left = snapshot.backlog(connection, result.run)
            delivered, failed = int(record["delivered"]), int(record["failed"])
            due = delivered + failed + int(record["held"]) + left
            result.delivery = replace(result.delivery, delivered=delivered, failed=failed)
            if due != record["due"]:
                result.problems.append(
                    f"the sums do not close: {record['due']:,} customers were due, and delivered, "
                    f"failed, held and left are {due:,}"
                )
                result.state = runs.FAILED
            if failed:
                result.problems.append(
                    f"Amberflo refused {failed:,} customers for good: `syncer failures` lists them"
                )
            if left:
                stopped = result.delivery.stopped
                result.state = runs.INTERRUPTED if stopped else runs.FAILED
                problem = result.delivery.problem
                result.problems.append(
                    f"{left:,} of {due:,} customers are not delivered and stay due"
                    + (f": {problem}" if problem else "")
                )
            elif result.held:
                result.state = runs.HELD
            values = {
                "state": result.state,
                "ended_at": self.clock(),
                "error": "; ".join(result.problems) or None,
            }
            runs.set_values(connection, result.run, values)
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
        held = {str(row["key"]): int(row["held"]) - int(row["waiting"]) for row in rows}
        return Approval(run, {key: count for key, count in held.items() if count})


class _Writer:
    """Gathers a run's changes and writes them in bulk. Calls may have come since the comparison:
    changes are laid over the state as it is now, and `recount` is told what they come to. `members`
    is by how many those of each key went up or down."""

    def __init__(
        self,
        connection: Connection,
        run: int,
        now: int,
        horizon: int = 0,
        recount: Callable[[TraitChange, TraitChange | None], None] = lambda counted, made: None,
    ) -> None:
        self._connection, self._run, self._now = connection, run, now
        self._horizon, self._recount = horizon, recount
        self._gathered: list[CustomerChange] = []
        self.members: dict[str, int] = {}

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
            laid, made = laid_over(state, change, self._horizon)
            if state is None:
                new.append(laid)
            elif laid != state:
                old.append(laid)
            self._count(change.changes, made)
            changes += [self._row(change.customer_id, one) for one in made]
        snapshot.insert_customers(self._connection, new, self._now, self._run)
        snapshot.update_customers(self._connection, old, self._now, self._run)
        snapshot.add_changes(self._connection, changes, self._run, self._now)
        self._gathered = []

    def _count(self, found: list[TraitChange], made: list[TraitChange]) -> None:
        if made != found:
            by_key = {one.key: one for one in made}
            for one in found:
                self._recount(one, by_key.get(one.key))
        for one in made:
            delta = _counts(one.after) - _counts(one.before)
            self.members[one.key] = self.members.get(one.key, 0) + delta

    def _row(self, customer_id: str, change: TraitChange) -> ChangeRow:
        observed_at = self._now if change.observed_at is None else change.observed_at
        before, after = _json(change.before), _json(change.after)
        return ChangeRow(customer_id, change.key, change.trait, before, after, observed_at)


def laid_over(
    state: CustomerState | None, change: CustomerChange, horizon: int
) -> tuple[CustomerState, list[TraitChange]]:
    """A customer's state with a change laid over it, and what that changed: nothing, where a call
    since the comparison said the same, or something newer (as `compare` has it)."""
    if state is None:
        traits = canonical(change.traits)
        new = CustomerState(change.customer_id, traits, change.name, change.email, None, None)
        return new, change.changes
    traits_now = orjson.loads(state.traits)
    stamps: dict[str, int] = orjson.loads(state.stamps or "{}")
    made = []
    for one in change.changes:
        now = traits_now.get(one.trait)
        at = horizon if one.observed_at is None else one.observed_at
        if stamps.get(one.trait, 0) > at or same(now, one.after):
            continue
        made.append(one._replace(before=now))
        if one.after is None:
            traits_now.pop(one.trait, None)
        else:
            traits_now[one.trait] = one.after
    name = change.name if change.name_at >= stamps.get("name", 0) else None
    email = change.email if change.email_at >= stamps.get("email", 0) else None
    laid = state._replace(
        traits=canonical(traits_now), name=name or state.name, email=email or state.email
    )
    return laid, made


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
            "waiting": compared.waiting_changes(key),
        }
        for key, sums in compared.tally.sums.items()
        if sums.pulled and (trait := compared.catalog.by_key[key])
    ]


def _send_again(connection: Connection, again: Again, now: int) -> None:
    if again.customer_ids is None:
        snapshot.send_again(connection, now, key=again.audience)
        return
    rest = iter(again.customer_ids)
    while ids := set(islice(rest, snapshot.CHUNK)):
        if again.less_held:
            ids -= {customer_id for customer_id, _ in holds.in_force(connection, ids)}
        snapshot.send_again(connection, now, customer_ids=ids)


def _describe_traits(connection: Connection, compared: Compared) -> None:
    """Write down what the Public API says of our traits, for who looks at them."""
    listing = compared.listing
    if listing is None or listing.problem is not None:
        return
    rows = []
    for row in snapshot.traits(connection):
        found = listing.computations.get(row.key)
        if found is not None:
            rows.append(row._replace(name=found.name, status=found.status, size=found.size))
        else:
            status = UNLISTED if row.key in compared.catalog.unlisted else None
            rows.append(row._replace(status=status, size=None))
    snapshot.describe_traits(connection, rows)


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
