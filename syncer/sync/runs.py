"""A run: pull, compare, guard, commit, deliver; and the proof that its sums close.

Everything before the commit leaves the database as it was, apart from the record of the run. The
commit is one transaction. Delivery sends what is due, from this run and from earlier ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, Protocol

import orjson
from sqlalchemy import Connection

from state import failures, holds, outbox, runs, snapshot, suppression
from state.db import metadata
from state.db.batches import ROWS
from state.db.database import Database
from state.db.locks import Check, run_lock
from state.history import seal
from state.holds import Hold
from state.snapshot import TraitRow
from syncer.chunks import chunks
from syncer.clock import read as milliseconds
from syncer.delivery.customers import Delivery
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.catalog_builder import build
from syncer.engage.computations import (
    AUDIENCE,
    COMPUTED_TRAIT,
    UNLISTED,
    Computation,
    Computations,
    Kind,
)
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
from syncer.errors import AmberfloError, NotFound, SourceError, StateError, Stopped, SyncerError
from syncer.event_times import horizon
from syncer.privacy.forget import check_not_forgotten
from syncer.progress import Progress
from syncer.sync import readiness
from syncer.sync.amberflo_account import AmberfloAccount
from syncer.sync.commit import Applied, Writer, renamed, taken_from_calls
from syncer.sync.decision import Decision
from syncer.sync.destination import Destination, FirstContact
from syncer.sync.diff import (
    ENGAGE_WINS,
    Pair,
    Sums,
    Tally,
    compare,
    look_up,
    merge,
    with_usable_ids,
)
from syncer.sync.guard import DAY, Guard
from syncer.sync.join import MentionedCustomers, Rulings, add_without_traits, beside, mark_deleted
from syncer.sync.plan import Plan
from syncer.sync.readiness import Mismatch
from syncer.sync.suppressed import without_suppressed

RunKind = Literal["initial", "incremental", "reconcile", "resync"]


class Look(Protocol):
    """Reads what Amberflo has; with `must` it raises what is in the way, else it gives None."""

    def __call__(self, *, must: bool, anew: bool) -> AbstractContextManager[Destination | None]: ...


@dataclass(frozen=True)
class Selection:
    """What of Engage is ours: the globs of the config, and whatever else a change of which makes
    the snapshot incomparable with a partial pull (`settings` is a text that holds all of it)."""

    audiences: tuple[str, ...]
    computed_traits: tuple[str, ...]
    settings: str
    #: whether customers that were deleted in Segment are forgotten
    forget_deleted: bool = False
    #: whether a trait waits for somebody's word where others have values under its name
    hold_first_contact: bool = False


@dataclass(frozen=True)
class Attribution:
    """What somebody says of a hold: the name and the reason that they give."""

    by: str | None = None
    because: str | None = None


@dataclass(frozen=True)
class Approval:
    """Holds of which may go through what runs up to `run` found, and whose word that is."""

    holds: frozenset[int]
    run: int
    word: Attribution


@dataclass(frozen=True)
class Redelivery:
    """Who is to be sent again, changed or not: who is or was in an audience, these customers, or,
    with neither, everybody; `less_held`: but nobody of whom something is held."""

    audience: str | None = None
    customer_ids: Iterable[str] | None = None
    less_held: bool = False


@dataclass
class Compared:
    """What a run would do; close it when done."""

    kind: RunKind
    scope: Scope
    catalog: Catalog
    tally: Tally
    plan: Plan
    decision: Decision
    #: those before the run, by key
    members: dict[str, int]
    watermark: str | None
    without_id: WithoutCustomerId
    #: what came by a call after this (epoch milliseconds), the pull need not know of yet
    horizon: int
    #: the trait rows that a partial pull had of what is held or rejected
    said: MentionedCustomers
    #: what the Public API says; None where it is not asked
    listing: Computations | None = None
    mismatches: list[Mismatch] = field(default_factory=list)
    #: what the user should know of, and is no problem
    notices: list[str] = field(default_factory=list)
    #: what Amberflo holds that the state did not put there; None where it was not read
    first_contact: FirstContact | None = None
    #: by key, what leaves and was decided on before
    excused: Mapping[str, int] = field(default_factory=dict)
    #: what came of it, when it is committed
    applied: Applied = field(default_factory=Applied)

    @property
    def whole(self) -> bool:
        return isinstance(self.scope, Everything)

    def close(self) -> None:
        self.plan.close()
        self.said.close()

    def held(self) -> dict[str, str]:
        """Keys of which something is held, `holds.DELETED` among them, each with the reason."""
        found = dict(self.decision.held)
        if self.decision.deletions is not None:
            found[holds.DELETED] = self.decision.deletions
        return {key: reason for key, reason in found.items() if key in self.applied.holds}

    def waiting_changes(self, key: str) -> int:
        """How many changes of a trait wait for Segment."""
        return self.tally.sums[key].leaving if key in self.decision.waiting else 0

    def sizes(self, key: str) -> tuple[int, int]:
        """Members of an audience before the run and how many would leave; of `holds.DELETED`,
        customers and how many were deleted."""
        if key == holds.DELETED:
            return self.tally.known, self.tally.deleted
        sums = self.tally.sums[key]
        return self.members.get(key, 0) + sums.found, sums.leaving - self.excused.get(key, 0)


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
    #: what the user should know of, and is no problem
    notices: list[str] = field(default_factory=list)


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
    account: AmberfloAccount | None = None
    #: what the Public API lists; None where it is not to be asked
    computations: Callable[[], list[Computation]] | None = None
    #: reads what Amberflo has, before all is compared; None where Amberflo is not to be asked
    look: Look | None = None
    #: looks whether Amberflo knows newer than this state, before changes alone are compared
    glance: Callable[[], int] | None = None
    #: how the values of traits are sent: where that changes, everybody is sent again
    trait_values: str = "native"
    #: a share of Segment's count of an audience by which ours may differ
    size_tolerance: float = 0.05
    clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000

    # What the command line asks for

    def sync(self, *, full: bool = False, new_account: bool = False) -> Result:
        """One run now, until delivered. With `new_account` everybody is sent, to an account that
        has nothing of ours yet."""
        with run_lock(self.database, self.patience) as check:
            anew = new_account and self.account is not None
            again = self._in_another_form()
            whole = full or new_account or again is not None
            return self._run(*self._next(whole), check=check, again=again, anew=anew)

    def resync(self, *, audience: str | None = None, customer_id: str | None = None) -> Result:
        """Pull and send again: everybody, everybody who is or was in an audience, or one."""
        with run_lock(self.database, self.patience) as check:
            again = Redelivery(audience, None if customer_id is None else [customer_id])
            if customer_id is not None:
                with self.database.read() as connection:
                    check_not_forgotten(connection, customer_id)
                    if runs.last_whole(connection) is None:
                        raise NotFound("nothing was compared yet: `syncer sync` comes first")
                return self._run("resync", OnlyCustomers((customer_id,)), check=check, again=again)
            if audience is not None:
                with self.database.read() as connection:
                    keys = {row.key for row in snapshot.traits(connection)}
                if audience not in keys:
                    raise NotFound(f"no trait with the key {audience!r} was ever synced")
            return self._run("resync", Everything(), check=check, again=again)

    def approve(self, run: int, word: Attribution = Attribution()) -> Result:
        """Compare everything anew and let through what the holds of that run have: these changes of
        these customers, as far as Engage still says them."""
        with run_lock(self.database, self.patience) as check:
            there = self._holds_of(run)
            # One that is rejected stays so while another one of the run waits for a decision.
            found = [one for one in there if one.decision is None] or there
            approval = Approval(frozenset(one.id for one in found), run, word)
            return self._run("reconcile", Everything(), check=check, approval=approval)

    def reject(self, run: int, word: Attribution = Attribution()) -> None:
        """Leave what the holds of that run have as it is, until Engage says something else of a
        customer, or the rejection is lifted."""
        with run_lock(self.database, self.patience):
            found = [one.id for one in self._holds_of(run) if one.decision is None]
            if not found:
                raise NotFound(f"what run {run} holds is rejected already")
            with self.database.write() as connection:
                holds.decide(
                    connection,
                    found,
                    holds.REJECTED,
                    self.clock(),
                    by=word.by,
                    because=word.because,
                )

    def lift(self, run: int) -> None:
        """Take back the rejection of what that run holds: the next run judges it anew."""
        with run_lock(self.database, self.patience):
            found = [one.id for one in self._holds_of(run) if one.decision == holds.REJECTED]
            if not found:
                raise NotFound(f"nothing of what run {run} holds is rejected")
            with self.database.write() as connection:
                holds.lift(connection, found, self.clock())

    def send_again(self, customer_ids: Iterable[str]) -> Delivery:
        """Send known customers as they are to be, whatever Amberflo has of them."""
        rest, due, began = iter(customer_ids), 0, self.clock()
        with run_lock(self.database, self.patience):
            with self.database.write(alone=True) as connection:
                while ids := list(islice(rest, ROWS)):
                    failures.clear(connection, [failures.customer_ref(one) for one in ids])
                    due += outbox.send_again(connection, began, customer_ids=ids, run=BY_HAND)
            delivery = self._send(BY_HAND, due)
            with self.database.read() as connection:
                refused = failures.customers_since(connection, began)
                left = outbox.backlog(connection, BY_HAND)
        return replace(delivery, delivered=max(due - refused - left, 0), failed=refused)

    def repair(self, customer_ids: Iterable[str]) -> Delivery:
        """Compare everything with Engage anew, so that an old state puts nothing old back, and send
        the named customers again, less those of whom something is held."""
        with run_lock(self.database, self.patience) as check:
            again = Redelivery(customer_ids=customer_ids, less_held=True)
            result = self._run("reconcile", Everything(), check=check, again=again)
        for key, reason in result.held.items():
            self.progress.say(f"held: {key}: {reason}")
        return result.delivery

    def diff(self, *, full: bool = False, amberflo: bool = False) -> Compared:
        """What the next run would change; writes nothing. Asks Amberflo nothing, but `amberflo`
        reads what it holds, as a full run does."""
        look = self.look
        if not amberflo or look is None:
            return replace(self, look=None, glance=None)._compare(*self._next(full), approval=None)

        def surely(*, must: bool, anew: bool) -> AbstractContextManager[Destination | None]:
            return look(must=True, anew=False)

        return replace(self, look=surely)._compare(*self._next(full=True), approval=None)

    def without_customer_id(self, compared: Compared) -> Iterator[str]:
        """The Segment ids of the profiles that the comparison had to leave out."""
        with self.source.pull(compared.scope) as pull:
            yield from pull.profiles_without_customer_id(compared.catalog.keys)

    # The run, top-down

    def _in_another_form(self) -> Redelivery | None:
        """Everybody, where Amberflo has the values of traits in another form than the configured
        one."""
        with self.database.read() as connection:
            before = metadata.get(connection, metadata.TRAIT_VALUES)
        if before in (None, self.trait_values):
            return None
        self.progress.say(
            f"amberflo.trait_values is {self.trait_values} and was {before}: all are sent again"
        )
        return Redelivery()

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
        again: Redelivery | None = None,
        anew: bool = False,
    ) -> Result:
        """Make a run; `anew` says that Amberflo's account is another one, from its commit on."""
        with self.database.write() as connection:
            for cut_off in runs.take_up(connection, self.clock()):
                self.progress.say(f"run {cut_off} was cut off; this one takes up what it left")
            run = runs.start(connection, kind, self.clock(), self.selection.settings)
        with self._recorded(run):
            if self.account is not None and not anew:
                self.account.check()
            with closing(self._compare(kind, scope, approval, anew)) as compared:
                check()  # nobody else runs: what was compared is still so
                due = self._commit(run, compared, approval, again, anew)
                decision = compared.decision
                result = Result(run, compared.kind, runs.DONE, compared.held())
                result.waiting, result.mismatches = dict(decision.waiting), compared.mismatches
                result.problems += compared.catalog.messages
                result.notices += [*compared.catalog.notices, *compared.notices]
            with self.database.read() as connection:
                done = runs.done_before(connection, run)
            result.delivery = self._send(run, due, done)
            return self._finish(result)

    def _compare(
        self, kind: RunKind, scope: Scope, approval: Approval | None, anew: bool = False
    ) -> Compared:
        """Compare what is in scope; all of it where a key turns up that is not ours yet: Amberflo
        may have something under its name."""
        listing = self._listing()  # asked before the pull: it may take minutes
        if isinstance(scope, ChangedSince) and self.glance is not None and (odd := self.glance()):
            self.progress.say(
                f"{odd:,} of the customers that changed last at Amberflo are not as this state has "
                "them: it may be an older copy, so all is compared"
            )
            kind, scope = "reconcile", Everything()
        with self._looked_at(kind, scope, anew) as contact:
            try:
                return self._compared(kind, scope, approval, listing, contact)
            except _NewKeys as new:
                self.progress.say(f"new: {new}: comparing all")
        with self._looked_at("reconcile", Everything()) as contact:
            return self._compared("reconcile", Everything(), approval, listing, contact)

    @contextmanager
    def _looked_at(
        self, kind: RunKind, scope: Scope, anew: bool = False
    ) -> Iterator[Destination | None]:
        """What Amberflo has, for a comparison of everything."""
        if self.look is None or not isinstance(scope, Everything):
            yield None
            return
        with self.source.pull(scope):
            pass  # what is wrong with the source is said before Amberflo is read
        with self.look(must=kind == "initial" or anew, anew=anew) as contact:
            yield contact

    def _compared(
        self,
        kind: RunKind,
        scope: Scope,
        approval: Approval | None,
        listing: Computations | None,
        contact: Destination | None,
    ) -> Compared:
        whole = isinstance(scope, Everything)
        with self.source.pull(scope) as pull, self.database.read() as connection:
            rows = snapshot.traits(connection)
            catalog = self._catalog(pull, connection, rows, listing)
            # Of keys that are refused for their names nothing becomes ours.
            ours = {trait.key for trait in catalog.by_name.values()}
            new = sorted(ours - {row.key for row in rows})
            if new and isinstance(scope, ChangedSince):
                raise _NewKeys(new, catalog)
            watermark = pull.watermark()
            folder = self.database.folder
            tally, plan, said = Tally(catalog), Plan(folder), MentionedCustomers(folder)
            rulings = Rulings(connection, tally)
            if approval is not None:
                rulings = Rulings(connection, tally, approval.holds, approval.run)
            first = self._first_contact(contact, catalog, connection)
            if first is None and whole and new and self.selection.hold_first_contact:
                raise SourceError(
                    'Amberflo cannot be read, and engage.first_contact is "hold": '
                    f"{', '.join(new[:5])} must wait until it can; nothing was changed"
                )
            try:
                began, horizon = self.clock(), self._horizon(kind, watermark)
                pairs = self._pairs(
                    pull, connection, catalog, tally, first, said, rulings, whole, horizon
                )
                forget = self.selection.forget_deleted
                found = compare(pairs, catalog, tally, horizon, whole=whole, forget=forget)
                for change in rulings.read(found):
                    plan.append(change)
                self._check_whole(pull, catalog, tally)
                without_id = self._without_id(pull, connection, scope, catalog, tally)
            except BaseException:
                plan.close()
                said.close()
                raise
            decision = self._decide(
                connection, catalog, rows, tally, rulings, approval, listing, whole
            )
            decision.held.update(self._of_others(catalog, rows, first, decision.held))
        if listing is not None and readiness.unseen(
            listing, catalog, {row.key: row.status for row in rows}, whole=whole
        ):
            watermark = None  # no row is settled by this run: the next one compares everything
        if decision.waiting:
            watermark = None
        members = _members(rows, catalog)
        compared = Compared(
            kind=kind,
            scope=scope,
            catalog=catalog,
            tally=tally,
            plan=plan,
            decision=decision,
            members=members,
            watermark=None if isinstance(scope, OnlyCustomers) else (watermark or ""),
            without_id=without_id,
            # A call that comes while this is compared is newer than what is pulled, whoever wins.
            horizon=min(horizon, began),
            said=said,
            excused=rulings.excused,
            listing=listing,
            first_contact=first,
        )
        if first is not None and first.notice is not None:
            compared.notices.append(first.notice)
        compared.notices += _odd_customers(tally)
        if listing and whole:
            here = readiness.members_after(tally.sums, members, decision.held, decision.waiting)
            compared.mismatches = readiness.mismatches(
                listing, here, self.selection.audiences, self.size_tolerance
            )
        return compared

    def _first_contact(
        self, contact: Destination | None, catalog: Catalog, connection: Connection
    ) -> FirstContact | None:
        """What Amberflo holds under the names of a run, where that is looked at and to be had."""
        if contact is None:
            return None
        try:
            return contact.first_contact(catalog, connection)
        except AmberfloError as problem:
            self.progress.say(f"what Amberflo holds is not compared: {problem}")
            return None

    def _catalog(
        self,
        pull: Pull,
        connection: Connection,
        rows: Sequence[TraitRow],
        listing: Computations | None,
    ) -> Catalog:
        released = [
            row for row in snapshot.traits(connection, released=True) if row.released_at is not None
        ]
        catalog = build(
            pull.observed(),
            [_known(row) for row in rows],
            audiences=self.selection.audiences,
            computed_traits=self.selection.computed_traits,
            listed=listing.kinds if listing else None,
            released=[_known(row) for row in released],
            members={row.key: row.members for row in rows},
        )
        if listing and listing.problem:
            catalog.messages.append(listing.problem)
        return catalog

    def _horizon(self, kind: RunKind, watermark: str | None) -> int:
        """Until when calls that came are in the source too; a resync lets Engage win in all."""
        if kind == "resync":
            return ENGAGE_WINS
        newest = milliseconds(watermark) or self.clock()
        return horizon(newest, self.clock())

    def _decide(
        self,
        connection: Connection,
        catalog: Catalog,
        rows: Sequence[TraitRow],
        tally: Tally,
        rulings: Rulings,
        approval: Approval | None,
        listing: Computations | None,
        whole: bool,
    ) -> Decision:
        """What of the compared may go through, by the guard, by Segment, and by decisions made
        before."""
        approved = approval.holds if approval else frozenset()
        still = {
            catalog.by_name[one.trait].key: f"held since run {one.since_run}: {one.reason}"
            for one in holds.open_holds(connection).values()
            if one.id not in approved and one.trait in catalog.by_name
        }
        day = self.clock() - DAY
        left = runs.left_since(connection, day)
        held = self.guard.held(
            tally.sums,
            _members(rows, catalog),
            whole=whole,
            still={key: why for key, why in still.items() if tally.sums[key].differing},
            excused=rulings.excused,
            left={trait.key: left.get(trait.name, 0) for trait in catalog.by_name.values()},
            lost=catalog.by_key.keys() - set(catalog.keys),
            unlisted=catalog.unlisted,
            waiting=readiness.waiting(listing, tally.sums, ()) if listing else (),
        )
        tally.known = snapshot.size(connection)
        deletions = self.guard.held_deletions(
            tally.deleted - rulings.excused[holds.DELETED],
            tally.known,
            holds.deleted_since(connection, day),
            nobody=not tally.customers,
        )
        pending = holds.open_holds(connection).get(holds.DELETED)
        if pending is not None and pending.id not in approved and tally.deleted:
            deletions = f"held since run {pending.since_run}: {pending.reason}"
        _check_sums(tally)
        waiting = readiness.waiting(listing, tally.sums, held) if listing else {}
        return Decision(catalog, held, waiting, deletions)

    def _of_others(
        self,
        catalog: Catalog,
        rows: Sequence[TraitRow],
        first: FirstContact | None,
        held: Collection[str],
    ) -> dict[str, str]:
        """Keys that become ours while Amberflo has other values under their names, held where the
        config wants it so, each with the reason."""
        if first is None or not self.selection.hold_first_contact:
            return {}
        known = set() if first.anew else {row.trait for row in rows}
        return {
            catalog.by_name[name].key: f"{holds.FIRST_CONTACT}: {found.differ:,} customers have "
            "another value at Amberflo under this name"
            for name, found in first.traits.items()
            if found.differ and name not in known and catalog.by_name[name].key not in held
        }

    def _without_id(
        self,
        pull: Pull,
        connection: Connection,
        scope: Scope,
        catalog: Catalog,
        tally: Tally,
    ) -> WithoutCustomerId:
        """The profiles that cannot be customers, counted as skipped."""
        if isinstance(scope, OnlyCustomers):
            if not tally.customers and not snapshot.known(connection, scope.customer_ids):
                named = ", ".join(map(repr, scope.customer_ids))
                raise NotFound(f"Engage has no customer {named}")
            return WithoutCustomerId(0, {})
        without_id = pull.without_customer_id(catalog.keys)
        for key, count in without_id.rows.items():
            tally.sums[key].pulled += count
            tally.sums[key].reasons["no customer id"] += count
        return without_id

    def _listing(self) -> Computations | None:
        """What the Public API lists; where it cannot be read, what earlier runs knew as ours."""
        if self.computations is None:
            return None
        try:
            return Computations.of(self.computations())
        except SourceError as error:
            with self.database.read() as connection:
                rows = snapshot.traits(connection)
            known = {row.key: _kind(row.kind) for row in rows if row.status != UNLISTED}
            if not known:
                raise SourceError(
                    f"{error}; no earlier run knows which traits are audiences, so nothing was sent"
                ) from None
            problem = f"{error}; until it can be read, nothing that left is taken out"
            return Computations(known, problem=problem)

    def _pairs(
        self,
        pull: Pull,
        connection: Connection,
        catalog: Catalog,
        tally: Tally,
        first: FirstContact | None,
        said: MentionedCustomers,
        rulings: Rulings,
        whole: bool,
        horizon: int,
    ) -> Iterator[Pair]:
        """The whole stream of what is to be compared, with progress."""
        counted = pull.count(catalog.keys)
        self.progress.begin("comparing", counted.customers)
        # Closed here: a stop in the middle must not leave a cursor open behind its connection.
        with (
            closing(pull.customers(catalog.keys)) as customers,
            closing(snapshot.customers(connection)) as known,
        ):
            pulled = self._watched(customers)
            pairs: Iterable[Pair]
            if whole:
                folder = self.database.folder
                both = merge(pulled, known)
                if first is not None:
                    both = add_without_traits(
                        both, first.unknown_ids(), pull.identified, tally, folder
                    )
                both = with_usable_ids(both, tally)
                pairs = mark_deleted(
                    both, pull.identified, horizon, tally.unconfirmed_deletions, folder
                )
            else:
                found = look_up(pulled, lambda ids: snapshot.known(connection, ids))
                pairs = said.noted(with_usable_ids(found, tally), catalog, rulings.traits)
            if first is not None:
                pairs = beside(pairs, first.before)
            pairs = without_suppressed(pairs, suppression.load(connection), tally)
            yield from pairs if first is None else first.noting(pairs)
        self.progress.end()
        tally.counted = counted

    def _check_whole(self, pull: Pull, catalog: Catalog, tally: Tally) -> None:
        """A pull is complete or it is nothing (docs/design.md §3.7)."""
        counted = tally.counted
        assert counted is not None
        customers = tally.customers - tally.silent
        if (customers, tally.rows) != (counted.customers, counted.rows):
            raise SourceError(
                f"the pull ended early: {customers:,} customers with {tally.rows:,} rows of "
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
        again: Redelivery | None,
        anew: bool,
    ) -> int:
        """Snapshot, history, holds, what is due and the run's sums, in one transaction; gives how
        many customers are due."""
        self._check_stop()
        now = self.clock()
        with self.database.write(alone=True) as connection:
            if anew and self.account is not None:
                self.account.begin_anew(connection, now)
            if approval is not None:
                word = approval.word
                holds.decide(
                    connection,
                    approval.holds,
                    holds.APPROVED,
                    now,
                    by=word.by,
                    because=word.because,
                    run=run,
                )
            suppression.keep(connection, compared.tally.returned)
            renamed(connection, compared.catalog.renamed, run, now)
            taken_from_calls(connection, compared.catalog.by_name, run, now)
            compared.applied = applied = self._apply(connection, run, compared, now)
            if compared.whole:
                holds.stay(connection, compared.tally.unconfirmed_deletions, run)
                looked_at = {*compared.catalog.by_name, holds.DELETED}
                holds.end_unseen(connection, looked_at, run, now)
            for trait, customer_ids in compared.said:
                holds.end_unsaid(connection, trait, customer_ids, run, now)
            left_out = {trait.name for trait in compared.catalog.left_out}
            holds.decide(
                connection,
                [
                    one.id
                    for trait, one in holds.open_holds(connection).items()
                    if trait in left_out
                ],
                holds.WITHDRAWN,
                now,
                because="the config leaves it out",
                run=run,
            )
            holds.close_empty(connection, run, now)
            snapshot.put_traits(
                connection,
                [
                    TraitRow(trait.key, trait.name, trait.kind, applied.members[trait.key])
                    for trait in compared.catalog.by_name.values()
                ],
            )
            _describe_traits(connection, compared)
            if again is not None:
                _send_again(connection, again, now)
            if again == Redelivery() or metadata.get(connection, metadata.TRAIT_VALUES) is None:
                metadata.put(connection, metadata.TRAIT_VALUES, self.trait_values)
            runs.add_traits(connection, run, trait_sums(compared, applied))
            due = outbox.adopt(connection, run, now)
            values = {
                **_totals(compared.tally.sums.values()),
                "kind": compared.kind,
                "committed_at": now,
                "watermark": compared.watermark,
                "without_customer_id": compared.without_id.profiles,
                "due": due + applied.held_customers,
                "held": applied.held_customers,
                "deleted": applied.deleted,
                "hold": applied.holds.get(holds.DELETED),
                "first_contact": compared.tally.first_contact,
            }
            runs.set_values(connection, run, values)
            seal.seal(connection, run, now)
        return due

    def _apply(self, connection: Connection, run: int, compared: Compared, now: int) -> Applied:
        """Write the plan less what is held."""
        writer = Writer(
            connection,
            run,
            now,
            compared.decision,
            horizon=compared.horizon,
            recount=compared.tally.recount,
            sizes=compared.sizes,
            forget=self.selection.forget_deleted,
        )
        for number, change in enumerate(compared.plan):
            if number % 2048 == 0:
                self._check_stop()
            writer.write(change)
        writer.flush()
        return writer.applied

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
        # Both in one snapshot: others acknowledge meanwhile, and what they do counts in both.
        with self.database.read() as connection:
            record = runs.get(connection, result.run)
            left = outbox.backlog(connection, result.run)
        with self.database.write() as connection:
            assert record is not None
            delivered, failed = int(record["delivered"]), int(record["failed"])
            due = delivered + failed + int(record["held"]) + left
            result.delivery = replace(result.delivery, delivered=delivered, failed=failed)
            if due != record["due"]:
                result.problems.append(
                    f"the sums do not close: {record['due']:,} customers were due, and delivered, "
                    f"failed, held and left are {due:,}"
                )
                result.state = runs.FAILED
            # Those that are known to fail make no run a bad one.
            if failed and failures.customers_since(connection, int(record["started_at"])):
                result.problems.append(
                    f"Amberflo does not take {failed:,} customers: `syncer failures` lists them"
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

    def _holds_of(self, run: int) -> list[Hold]:
        """The holds of a run on which there is something to decide."""
        with self.database.read() as connection:
            record = runs.get(connection, run)
            if record is None:
                raise NotFound(f"there is no run {run}; `syncer runs` lists them")
            found = holds.undecided(connection, run)
        if not found:
            with self.database.read() as connection:
                waiting = holds.open_keys(connection)
            raise NotFound(
                f"run {run} is {record['state']}: it holds nothing that waits for a decision"
                + "".join(f"; {key} waits in run {one}" for key, one in sorted(waiting.items()))
            )
        return found


class _NewKeys(Exception):
    """Keys that become ours by what a partial pull has seen; the text names them."""

    def __init__(self, keys: Sequence[str], catalog: Catalog) -> None:
        shown = [f"{key} ({catalog.by_key[key].kind.replace('_', ' ')})" for key in keys[:5]]
        super().__init__(", ".join([*shown, *(["…"] if len(keys) > 5 else [])]))


def trait_sums(compared: Compared, applied: Applied) -> list[dict[str, Any]]:
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
            "held": applied.held[trait.key],
            "reasons": orjson.dumps(sums.reasons, option=orjson.OPT_SORT_KEYS).decode(),
            "waiting": compared.waiting_changes(key),
            "left_by_itself": applied.left[trait.key],
            "hold": applied.holds.get(trait.key),
        }
        for key, sums in compared.tally.sums.items()
        if sums.pulled and (trait := compared.catalog.by_key[key])
    ]


def _send_again(connection: Connection, again: Redelivery, now: int) -> None:
    if again.customer_ids is None:
        outbox.send_again(connection, now, key=again.audience)
        return
    for part in chunks(iter(again.customer_ids)):
        ids = set(part)
        if again.less_held:
            ids -= {customer_id for customer_id, _ in holds.in_force(connection, ids)}
        outbox.send_again(connection, now, customer_ids=ids)


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


def _odd_customers(tally: Tally) -> list[str]:
    """What could not be taken of customers, whatever their traits: a line for each kind."""
    notices = []
    if tally.unusable:
        reasons = "; ".join(f"{count:,}: {why}" for why, count in tally.unusable.items())
        shown = ", ".join(map(repr, tally.examples))
        notices.append(f"customers that are skipped ({reasons}), such as {shown}")
    if tally.unread:
        notices.append(f"{tally.unread:,} names and emails cannot be read and stay as they are")
    return notices


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


def _members(rows: Iterable[TraitRow], catalog: Catalog) -> dict[str, int]:
    """Members by the key that has the name now."""
    return {
        catalog.by_name[row.trait].key: row.members for row in rows if row.trait in catalog.by_name
    }


def _known(row: TraitRow) -> KnownTrait:
    return KnownTrait(row.key, row.trait, _kind(row.kind))


def _kind(text: str) -> Kind:
    return AUDIENCE if text == AUDIENCE else COMPUTED_TRAIT
