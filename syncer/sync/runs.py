"""The runs: sync, resync, approve, reject, lift, repair; each ends with the proof of its sums.

A run compares (comparison.py), commits (commit.py) and delivers. The state stays as it was until
the commit, apart from the record of the run. Delivery sends what is due, from this run and from
earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice

from sqlalchemy import Connection

from state import failures, holds, outbox, restored, runs, snapshot
from state.db import metadata
from state.db.batches import ROWS
from state.db.database import Database
from state.db.locks import Check, run_lock
from state.holds import Hold
from syncer.clock import now_ms
from syncer.delivery.customers import Delivery
from syncer.delivery.estimate import Estimate
from syncer.delivery.outlook import outlook
from syncer.engage.source import ChangedSince, Everything, OnlyCustomers, Scope
from syncer.engage.warehouses.warehouse import PROGRAM, query_tag
from syncer.errors import NotFound, StateError, Stopped
from syncer.privacy.forget import check_not_forgotten
from syncer.progress import Progress
from syncer.sync.adoption import check_adoptable
from syncer.sync.amberflo_account import AmberfloAccount
from syncer.sync.commit import Commit, Redelivery
from syncer.sync.compared import Compared, RunKind
from syncer.sync.comparison import Comparison
from syncer.sync.decision import ANONYMOUS, Approval, Attribution
from syncer.sync.run_problems import RunProblems
from syncer.sync.run_result import Result
from syncer.sync.tally import Applied
from syncer.sync.trait_selection import Selection
from syncer.sync.warehouse_compare import planned

#: Delivers the customers that a run (its number) waits for, and reports how many are done.
Deliver = Callable[[int, Callable[[int], None]], Delivery]

#: The run number of customers that are sent again by hand: no run waits for them.
BY_HAND = 0


@dataclass
class Runs:
    """Makes runs on a state database."""

    database: Database
    comparison: Comparison
    deliver: Deliver
    progress: Progress
    #: seconds to wait for the end of another run, such as a short one of the daemon
    patience: float = 2.0
    #: the Amberflo account that is delivered to; None if it is not to be checked
    account: AmberfloAccount | None = None
    #: keeps in the state what keeps a run from its work
    problems: RunProblems = field(default_factory=lambda: RunProblems.on(None))
    #: requests per second that Amberflo gets at most; 0 is unlimited
    rate: float = 0.0
    #: how the values of traits are sent; if that changes, all customers are sent again
    trait_values: str = "native"
    #: whether each run pulls everything (see `SourceSettings`)
    always_whole: bool = False
    #: epoch milliseconds
    clock: Callable[[], int] = now_ms

    @property
    def selection(self) -> Selection:
        """The part of Engage that is ours."""
        return self.comparison.selection

    # What one may ask for

    def sync(self, *, full: bool = False, new_account: bool = False) -> Result:
        """Make one run now, until it is delivered.

        With `new_account` all customers are sent, to an account that has nothing of ours yet.
        """
        with run_lock(self.database, self.patience) as check:
            account = self.account if new_account else None
            redelivery = self._for_new_form()
            whole = full or new_account or redelivery is not None
            kind, scope = self._next(whole)
            return self._run(kind, scope, check, redelivery=redelivery, new_account=account)

    def resync(self, *, audience: str | None = None, customer_id: str | None = None) -> Result:
        """Pull and send again: all customers, those that are or were in an audience, or one."""
        with run_lock(self.database, self.patience) as check:
            with self.database.read() as connection:
                if customer_id is not None:
                    self._check_synced(connection, customer_id)
                elif audience is not None:
                    _check_known(connection, audience)
            if customer_id is not None:
                redelivery = Redelivery(customer_ids=[customer_id])
                return self._run("resync", OnlyCustomers((customer_id,)), check, redelivery)
            return self._run("resync", Everything(), check, Redelivery(audience))

    def adopt(self) -> Result:
        """Take what Amberflo holds as it should be for acknowledged, and send nothing.

        What differs is due from then on. Only a state that has sent nothing adopts.
        """
        with run_lock(self.database, self.patience) as check:
            with self.database.read() as connection:
                check_adoptable(connection)
            return self._run("adopt", Everything(), check)

    def approve(self, run: int, attribution: Attribution = ANONYMOUS) -> Result:
        """Compare everything anew, and let through what the holds of that run keep back.

        These are the same changes of the same customers, as far as Engage still says them.
        """
        with run_lock(self.database, self.patience) as check:
            of_run = self.undecided(run)
            # A rejected hold stays rejected while another hold of the run waits for a decision.
            chosen = [hold for hold in of_run if hold.decision is None] or of_run
            approval = Approval(frozenset(hold.id for hold in chosen), run, attribution)
            return self._run("reconcile", Everything(), check, approval=approval)

    def reject(self, run: int, attribution: Attribution = ANONYMOUS) -> None:
        """Leave what the holds of that run keep back as it is.

        This lasts until Engage says something else of a customer, or `lift` takes it back.
        """
        with run_lock(self.database, self.patience):
            waiting = [hold.id for hold in self.undecided(run) if hold.decision is None]
            if not waiting:
                raise NotFound(f"what run {run} holds is rejected already")
            with self.database.write() as connection:
                holds.decide(
                    connection,
                    waiting,
                    holds.REJECTED,
                    self.clock(),
                    by=attribution.by,
                    because=attribution.because,
                )

    def lift(self, run: int) -> None:
        """Take back the rejection of what that run holds: the next run judges it anew."""
        with run_lock(self.database, self.patience):
            of_run = self.undecided(run)
            rejected = [hold.id for hold in of_run if hold.decision == holds.REJECTED]
            if not rejected:
                raise NotFound(f"nothing of what run {run} holds is rejected")
            with self.database.write(alone=True) as connection:
                holds.lift(connection, rejected, self.clock())

    def undecided(self, run: int) -> list[Hold]:
        """Return the holds of a run on which there is something to decide.

        Raises NotFound if there is nothing.
        """
        with self.database.read() as connection:
            record = runs.get(connection, run)
            if record is None:
                raise NotFound(f"there is no run {run}; `syncer runs` lists them")
            undecided = holds.undecided(connection, run)
            waiting = sorted(holds.open_keys(connection).items())
        if not undecided:
            raise NotFound(
                f"run {run} is {record.state}: it holds nothing that waits for a decision"
                + "".join(f"; {key} waits in run {since}" for key, since in waiting)
            )
        return undecided

    def send_again(self, customer_ids: Iterable[str]) -> Delivery:
        """Send known customers as the state has them, whatever Amberflo has of them."""
        remaining, due, began = iter(customer_ids), 0, self.clock()
        with run_lock(self.database, self.patience):
            self._check_not_restored()
            with self.database.write(alone=True) as connection:
                while ids := list(islice(remaining, ROWS)):
                    failures.clear(connection, list(map(failures.customer_ref, ids)))
                    due += outbox.send_again(connection, began, customer_ids=ids, run=BY_HAND)
            delivery = self._deliver(BY_HAND, due)
            with self.database.read() as connection:
                refused = failures.customers_since(connection, began)
                still_due = outbox.backlog(connection, BY_HAND)
        delivered = max(due - refused - still_due, 0)
        return replace(delivery, delivered=delivered, failed=refused)

    def repair(self, customer_ids: Iterable[str]) -> Delivery:
        """Compare everything anew and send the named customers again.

        The comparison keeps an old state from restoring old values. Customers of whom something is
        held are not sent. A state that was restored is not believed before a run of its own.
        """
        with run_lock(self.database, self.patience) as check:
            self._check_not_restored()
            redelivery = Redelivery(customer_ids=customer_ids, less_held=True)
            result = self._run("reconcile", Everything(), check, redelivery)
        for key, reason in result.held.items():
            self.progress.say(f"held: {key}: {reason}")
        return result.delivery

    def diff(self, *, full: bool = False, amberflo: bool = False) -> Compared:
        """Compare as the next run would; write nothing.

        Amberflo is asked nothing unless `amberflo` reads what it holds, as a full run does, and
        compares each customer with it.
        """
        comparison = self.comparison
        if not amberflo or comparison.open_destination is None:
            return comparison.without_amberflo().compare(*self._next(full))
        return comparison.compare(*self._next(full=True), must_read_amberflo=True, parity=True)

    def without_customer_id(self, compared: Compared) -> Iterator[str]:
        """Yield the Segment ids of the profiles that the comparison had to leave out."""
        return self.comparison.profiles_without_customer_id(compared)

    # The run, top-down

    def _run(
        self,
        kind: RunKind,
        scope: Scope,
        check: Check,
        redelivery: Redelivery | None = None,
        *,
        approval: Approval | None = None,
        new_account: AmberfloAccount | None = None,
    ) -> Result:
        """Make a run; from its commit on, the state belongs to `new_account`, if there is one."""
        adopts = kind == "adopt"
        if scope != Everything():
            self._check_not_restored()
        # Alone: from here on, whoever writes customers notes whom the next comparison must read.
        with self.database.write(alone=True) as connection:
            for cut_off in runs.take_up(connection, self.clock()):
                self.progress.say(f"run {cut_off} was cut off; this one takes up what it left")
            run = runs.start(connection, kind, self.clock(), self.selection.settings)
            must_read = adopts or restored.pending(connection) is not None
            # What may be wrong here, or is to be sent whatever it is, is compared in full.
            compares = not must_read and redelivery is None and new_account is None
            plan = planned(self.comparison.source, connection, run, compares=compares)
        with self._recorded(run):
            if self.account is not None and new_account is None:
                self.account.check()
            with closing(
                self.comparison.compare(
                    kind,
                    scope,
                    approval,
                    new_account=new_account is not None,
                    must_read_amberflo=must_read,
                    parity=adopts,
                    plan=plan,
                )
            ) as compared:
                self.problems.pulled()
                check()  # no other run went on meanwhile, so the comparison still holds
                applied = self._commit(run, compared, approval, redelivery, new_account)
                result = Result(
                    run,
                    compared.kind,
                    runs.DONE,
                    compared.held(applied),
                    problems=list(compared.catalog.messages),
                    waiting=dict(compared.decision.waiting),
                    mismatches=compared.mismatches,
                    notices=[*compared.catalog.notices, *compared.notices],
                )
                if adopts:
                    result.parity, compared.parity = compared.parity, None
            if not adopts:
                result.delivery = self._deliver(run, applied.due)
            return self._finish(result)

    def _commit(
        self,
        run: int,
        compared: Compared,
        approval: Approval | None,
        redelivery: Redelivery | None,
        new_account: AmberfloAccount | None,
    ) -> Applied:
        """Commit what was compared, unless the user asked to stop."""
        self.comparison.check_stop()
        return Commit(
            self.database,
            run,
            compared,
            self.clock(),
            approval=approval,
            redelivery=redelivery,
            new_account=new_account,
            trait_values=self.trait_values,
            forget_deleted=self.selection.forget_deleted,
            check_stop=self.comparison.check_stop,
        ).apply()

    def _deliver(self, run: int, due: int) -> Delivery:
        """Deliver what the run waits for, and not what calls make due meanwhile."""
        with self.database.read() as connection:
            done = runs.done_before(connection, run)  # by earlier runs that were cut off
        if due:
            self.progress.say(f"to send: {self._estimate(run)}")
        self.progress.begin("delivering", due + done, done)
        try:
            return self.deliver(run, lambda finished: self.progress.at(done + finished))
        finally:
            self.progress.end()

    def _estimate(self, run: int) -> Estimate:
        """Return what it takes to send the customers that a run waits for."""
        with self.database.read() as connection:
            due = outbox.backlog(connection, run)
            new = outbox.backlog_unknown(connection, run)
        return outlook(self.database, new, due - new, self.rate)

    def _finish(self, result: Result) -> Result:
        """Close the run's sums: due = delivered + failed + held."""
        with self.database.write() as connection:
            # Others deliver meanwhile: what they do counts in both or in none, and until the end.
            record = runs.get_alone(connection, result.run)
            still_due = outbox.backlog(connection, result.run)
            delivered, failed = int(record.delivered), int(record.failed)
            due = delivered + failed + int(record.held) + still_due
            result.delivery = replace(
                result.delivery,
                delivered=delivered,
                already_right=int(record.already_right),
                failed=failed,
            )
            if due != record.due:
                result.problems.append(
                    f"the sums do not close: {record.due:,} customers were due, and delivered, "
                    f"failed, held and left are {due:,}"
                )
                result.state = runs.FAILED
            # Customers that failed before this run do not make it a bad one.
            if failed and failures.customers_since(connection, int(record.started_at)):
                result.problems.append(
                    f"Amberflo does not take {failed:,} customers: `syncer failures` lists them"
                )
            if still_due:
                stopped = result.delivery.stopped
                result.state = runs.INTERRUPTED if stopped else runs.FAILED
                problem = result.delivery.problem
                result.problems.append(
                    f"{still_due:,} of {due:,} customers are not delivered and stay due"
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
            result.record = runs.get(connection, result.run)
        return result

    # What a run needs to know

    def _for_new_form(self) -> Redelivery | None:
        """Return a redelivery of all if Amberflo has values in another form than configured."""
        with self.database.read() as connection:
            before = metadata.get(connection, metadata.TRAIT_VALUES)
        if before in (None, self.trait_values):
            return None
        self.progress.say(
            f"amberflo.trait_values is {self.trait_values} and was {before}: all are sent again"
        )
        return Redelivery()

    def _next(self, full: bool) -> tuple[RunKind, Scope]:
        """Return the kind of the next run, and what it has to pull."""
        with self.database.read() as connection:
            last, restored_before = runs.last_whole(connection), restored.pending(connection)
        if last is None:
            return "initial", Everything()
        if full:
            return "reconcile", Everything()
        if restored_before is not None:
            self.progress.say("the state was restored from a backup: comparing all")
            return "reconcile", Everything()
        if last.settings != self.selection.settings:
            self.progress.say("the engage settings changed since the last run: comparing all")
            return "reconcile", Everything()
        if not last.watermark or self.always_whole:
            return "incremental", Everything()
        return "incremental", ChangedSince(str(last.watermark))

    def _check_not_restored(self) -> None:
        with self.database.read() as connection:
            restored.check(connection)

    def _check_synced(self, connection: Connection, customer_id: str) -> None:
        check_not_forgotten(connection, customer_id)
        if runs.last_whole(connection) is None:
            raise NotFound("nothing was compared yet: `syncer sync` comes first")

    @contextmanager
    def _recorded(self, run: int) -> Iterator[None]:
        """Write the error that ends a run into its record; the warehouse shows its number."""
        tag = query_tag.set(f"{PROGRAM} run {run}")
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            self.problems.ended_by(error)
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            # If the database itself fails, the next start takes the run as cut off.
            with suppress(StateError), self.database.write() as connection:
                values = {
                    "state": runs.INTERRUPTED if stopped else runs.FAILED,
                    "ended_at": self.clock(),
                    "error": str(error) or type(error).__name__,
                }
                runs.set_values(connection, run, values)
            raise
        finally:
            query_tag.reset(tag)


def _check_known(connection: Connection, audience: str) -> None:
    if audience not in {row.key for row in snapshot.traits(connection)}:
        raise NotFound(f"no trait with the key {audience!r} was ever synced")
