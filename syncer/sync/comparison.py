"""The comparison of a run: a pull against the snapshot, and what of it may go through.

The comparison writes nothing to the state. It leaves its changes on disk, for the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from state import snapshot
from state.db.database import Database
from syncer.clock import now_ms
from syncer.engage.computations import UNLISTED, Computation, Computations
from syncer.engage.source import (
    ChangedSince,
    ComparingSource,
    Everything,
    Pull,
    PushDown,
    Scope,
    Source,
)
from syncer.errors import SourceError, Stopped
from syncer.progress import Progress
from syncer.sync.compared import Compared, RunKind
from syncer.sync.decision import Approval
from syncer.sync.destination import Destination
from syncer.sync.guard import Guard
from syncer.sync.parity_join import with_parity
from syncer.sync.pull_comparison import NewTraits, PullComparison
from syncer.sync.source_watch import SourceWatch
from syncer.sync.trait_selection import Selection, kind_of
from syncer.sync.warehouse_compare import Plan, WarehouseCompare

Opened = TypeVar("Opened")


class OpenDestination(Protocol):
    """Reads what Amberflo holds.

    `new_account` says that Amberflo has acknowledged nothing to this state. If Amberflo cannot be
    read, `must` raises the error; otherwise the context is None.
    """

    def __call__(
        self, *, must: bool, new_account: bool
    ) -> AbstractContextManager[Destination | None]: ...


@dataclass(frozen=True)
class Comparison:
    """Compares what a source has with the snapshot of the state.

    `clock` returns epoch milliseconds; `stop` returns whether the user asked to stop.
    """

    database: Database
    source: Source
    selection: Selection
    guard: Guard
    progress: Progress
    stop: Callable[[], bool] = lambda: False
    #: lists the audiences and traits of the Public API; None if it is not to be asked
    computations: Callable[[], list[Computation]] | None = None
    #: reads what Amberflo holds, before all is compared; None if it is not to be read
    open_destination: OpenDestination | None = None
    #: counts the customers that are newer at Amberflo than in this state, before a partial
    #: comparison; None if Amberflo is not to be asked
    count_newer: Callable[[], int] | None = None
    #: the share of Segment's count of an audience by which ours may differ
    size_tolerance: float = 0.05
    #: watches what the source is asked
    watch: SourceWatch = field(default_factory=SourceWatch)
    clock: Callable[[], int] = now_ms

    def compare(
        self,
        kind: RunKind,
        scope: Scope,
        approval: Approval | None = None,
        *,
        new_account: bool = False,
        must_read_amberflo: bool = False,
        parity: bool = False,
        plan: Plan | None = None,
    ) -> Compared:
        """Compare what is in scope; with `parity` also each customer with its record at Amberflo.

        By a `plan`, the warehouse keeps fingerprints of a comparison of everything.

        Everything is compared instead if a new trait turns up, because Amberflo may hold values
        under its name, or if the state seems older than what Amberflo holds. A first run, and one
        with `new_account` or `must_read_amberflo`, raises AmberfloError if it cannot be read.
        """
        computations = self._computations()  # before the pull: it may take minutes
        if isinstance(scope, ChangedSince) and self.count_newer and (newer := self.count_newer()):
            self.progress.say(
                f"{newer:,} of the customers that changed last at Amberflo are not as this state "
                "has them: it may be an older copy, so all is compared"
            )
            kind, scope = "reconcile", Everything()
            plan = plan and replace(plan, compares=False)
        try:
            must = must_read_amberflo or kind == "initial" or new_account
            with self._destination(scope, must=must, new_account=new_account) as destination:
                compared = self._compare(kind, scope, approval, computations, destination, plan)
                if not parity:
                    return compared
                return with_parity(compared, destination, self.database, self.check_stop)
        except NewTraits as new:
            self.progress.say(f"new: {new}: comparing all")
        with self._destination(Everything(), must=must_read_amberflo) as destination:
            beside = (approval, computations, destination, plan)
            return self._compare("reconcile", Everything(), *beside)

    def without_amberflo(self) -> Comparison:
        """Return the same comparison, which asks Amberflo nothing."""
        return replace(self, open_destination=None, count_newer=None)

    def profiles_without_customer_id(self, compared: Compared) -> Iterator[str]:
        """Yield the Segment ids of the profiles that a comparison had to leave out."""
        with self.source.pull(compared.scope) as pull:
            yield from pull.profiles_without_customer_id(compared.catalog.keys)

    def check_stop(self) -> None:
        """Raise Stopped if the user asked to stop."""
        if self.stop():
            raise Stopped("stopped before anything was changed; the next run starts anew")

    def _computations(self) -> Computations | None:
        """Ask the Public API; if it cannot be read, use what earlier runs knew as ours."""
        if self.computations is None:
            return None
        try:
            return Computations.of(self.computations())
        except SourceError as error:
            with self.database.read() as connection:
                rows = snapshot.traits(connection)
            known = {row.key: kind_of(row) for row in rows if row.status != UNLISTED}
            if not known:
                raise SourceError(
                    f"{error}; no earlier run knows which traits are audiences, so nothing was sent"
                ) from None
            problem = f"{error}; until it can be read, nothing that left is taken out"
            return Computations(known, problem=problem)

    @contextmanager
    def _destination(
        self, scope: Scope, *, must: bool, new_account: bool = False
    ) -> Iterator[Destination | None]:
        """Open what Amberflo holds, for a comparison of everything."""
        if self.open_destination is None or not isinstance(scope, Everything):
            yield None
            return
        with self._pull(scope):
            pass  # a fault of the source is told before Amberflo is read
        with self.open_destination(must=must, new_account=new_account) as destination:
            yield destination

    @contextmanager
    def _pull(self, scope: Scope) -> Iterator[Pull]:
        with self._opened(self.source.pull(scope)) as pull:
            yield pull

    @contextmanager
    def _opened(self, pull: AbstractContextManager[Opened]) -> Iterator[Opened]:
        """Open a pull, and watch how long it takes."""
        with ExitStack() as stack:
            with self.watch.asking():
                opened = stack.enter_context(pull)
            yield opened

    def _compare(
        self,
        kind: RunKind,
        scope: Scope,
        approval: Approval | None,
        computations: Computations | None,
        destination: Destination | None,
        plan: Plan | None,
    ) -> Compared:
        with ExitStack() as stack:
            opened, warehouse = None, None
            if plan is not None and isinstance(scope, Everything):
                opened = self._comparing(stack, plan)
            pull = opened[0] if opened else stack.enter_context(self._pull(scope))
            connection = stack.enter_context(self.database.read())
            if plan is not None and opened:
                warehouse = WarehouseCompare(opened[1], plan, connection, self.progress)
            beside = (computations, pull, connection, destination, warehouse)
            compared = PullComparison(self, kind, scope, approval, *beside).compared()
            compared.plan = plan
            return compared

    def _comparing(self, stack: ExitStack, plan: Plan) -> tuple[Pull, PushDown] | None:
        """Open a pull in which the source compares; None if it lets no fingerprints be kept.

        Then the run does without, and leaves what earlier ones compared by as it is.
        """
        assert isinstance(self.source, ComparingSource)
        with ExitStack() as opening:
            pull, push_down = opening.enter_context(self._opened(self.source.comparing()))
            try:
                push_down.make(plan.table)
            except SourceError as refused:
                self.progress.say(
                    f"all customers are read, and no fingerprints are kept: {refused}"
                )
                return None
            stack.push(opening.pop_all())
            return pull, push_down
