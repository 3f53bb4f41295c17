"""Plays orders of the protocol's model (docs/model/membership.pml) on the real code, step by step.

The customer of the model is `u-1`, the audience `vip`. A version becomes a row and a call with the
time at which Engage changed its mind. After each step the state, the inbox and Amberflo must have
what the model says, and its properties must hold.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson

from syncer.clock import now_ms
from syncer.config import load
from syncer.passthrough import processor
from syncer.sandbox.amberflo import running
from tests.support.calls import membership
from tests.support.installation import API_KEY, Installation
from tests.support.processes import wait_until
from tests.support.spin import Facts, Step
from tests.support.warehouse import Warehouse

from .amberflo import Recorder
from .parts import Part, Parts, Work

CUSTOMER, AUDIENCE = "u-1", "vip"
#: The guard holds every exit, or none: in the model others decide how many leave.
STRICT = "[guard]\nmax_exits = 0\nmin_exits = 1\nsmall_max_exits = 0\nsmall_min_exits = 1\n"
LAX = "[guard]\nmax_exits = 1\nsmall_max_exits = 1\n"
#: Where a run may be killed, for a run of the model that dies.
DEATHS = ("commit.before", "commit.middle", "commit.last")
#: A point at which nothing ever is: a process with this one ahead is going to be killed.
NEVER = "never"


class NoCounterpart(Exception):
    """The product cannot take this step: it does not let it happen, or does it in another order."""


class Seen(NamedTuple):
    """What the real parts have: whether the state says that `u-1` is in `vip`, the version of the
    call that said it last, and what else `Facts` has."""

    member: bool
    called: int
    due: bool
    inbox: frozenset[int]
    held: int
    rejected: int
    amberflo: bool


@dataclass
class Place:
    """An installation of which each order gets a fresh copy: `u-1` is known, and not in `vip`."""

    folder: Path
    amberflo: Recorder
    warehouse: Warehouse
    lax: Parts
    strict: Parts

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Place]:
        amberflo = Recorder(API_KEY)
        with (
            one_call_at_a_time(),
            running(amberflo) as url,
            closing(Warehouse(folder / "engage.db")) as warehouse,
        ):
            installation, parts = Installation(folder, amberflo, url), []
            for guard in (LAX, STRICT):
                installation.configure(more=guard)
                parts.append(Parts(load(installation.config, {})))
            warehouse.user(CUSTOMER, ago=700, **{AUDIENCE: "false", "gold": "true"})
            installation.run("sync")
            parts[0].process()  # and so there is a queue
            (folder / "first").mkdir()
            for path in folder.glob("*.db"):
                shutil.copy(path, folder / "first")
            place = cls(folder, amberflo, warehouse, *parts)
            place._warm_up()
            yield place

    def _warm_up(self) -> None:
        """Do here once what the processes do, which are forked from this one: so they are quick."""
        with self.fresh(0) as membership:
            for version, full in ((1, False), (2, True)):
                membership.times.append(now_ms() - 10 + version)
                membership._accept(version)
                self.lax.process()
                membership._load()
                self.lax.deliver(lambda: False)
                self.lax.run(lambda: False, full=full)

    @contextmanager
    def fresh(self, seed: int) -> Iterator[Membership]:
        """Give a membership at its beginning; the seed says what the model leaves open."""
        for path in self.folder.glob("syncer*.db*"):
            path.unlink()
        for path in (self.folder / "first").glob("syncer*.db"):
            shutil.copy(path, self.folder)
        with closing(sqlite3.connect(self.folder / "first" / "engage.db")) as first:
            first.backup(self.warehouse.db)
        self.amberflo.customers[CUSTOMER]["traits"] = {AUDIENCE: False, "gold": True}
        self.amberflo.writes.clear()
        membership = Membership(self, Random(seed))
        try:
            yield membership
        finally:
            membership.kill_all()


@contextmanager
def one_call_at_a_time() -> Iterator[None]:
    """Let the processor take one request in a transaction, as the model does."""
    kept, processor.PAGE = processor.PAGE, 1
    try:
        yield
    finally:
        processor.PAGE = kept


@dataclass
class Membership:
    """The membership of `u-1`, and the processes that work on it, by the model's number of each."""

    place: Place
    rng: Random
    at_work: dict[int, Part] = field(default_factory=dict)
    #: when Engage came to each version (epoch ms), and the newest that is loaded
    times: list[int] = field(default_factory=lambda: [0])
    loaded: int = 0
    #: versions of which a call got its 200, and that were processed
    answered: set[int] = field(default_factory=set)
    processed: set[int] = field(default_factory=set)
    #: the version that each request of the inbox is about
    requests: dict[int, int] = field(default_factory=dict)
    #: what a hold keeps back, or somebody rejected, when it was looked at last
    kept_back: set[int] = field(default_factory=set)

    # The orders

    def play(self, steps: Sequence[Step]) -> int:
        """Play an order as far as the product can take it; return so many steps."""
        for number, step in enumerate(steps):
            try:
                self._take(step, steps[number + 1 :])
            except NoCounterpart:
                return number
            seen = self.look()
            done = [f"{step.part} {step.what} {step.number}" for step in steps[: number + 1]]
            assert seen == self._says(step.after, seen), f"{seen}, not {step.after}, after {done}"
        return len(steps)

    def play_what_can_be(self, steps: Sequence[Step]) -> None:
        """Play an order that only a wrong program takes, less what this one does not do."""
        for number, step in enumerate(steps):
            with suppress(NoCounterpart):
                self._take(step, steps[number + 1 :])
                self.look()

    def _take(self, step: Step, ahead: Sequence[Step]) -> None:
        """Do what a step says, in a millisecond of its own."""
        self._ahead = [later for later in ahead if later.part == step.part]
        getattr(self, f"_{step.what}")(step)
        began = now_ms()
        wait_until(lambda: now_ms() > began)

    def end_well(self) -> None:
        """Let all that has begun end, and everything be loaded, processed and sent.

        Then Amberflo has what Engage says, or it waits for somebody's decision.
        """
        for number in list(self.at_work):
            part = self.at_work.pop(number)
            (part.kill if NEVER in part.ahead else part.finish)()
        while self.loaded < len(self.times) - 1:
            self._load()
        while waiting := self._inbox():
            self.place.lax.process()
            self.processed.add(waiting[0])
        self.place.lax.run(lambda: False, full=False)
        seen, newest = self.look(), len(self.times) - 1
        assert not seen.due
        assert seen.amberflo == bool(newest % 2) or newest in (seen.held, seen.rejected), seen

    def kill_all(self) -> None:
        for part in self.at_work.values():
            part.kill()

    # The steps

    def _changes(self, step: Step) -> None:
        self.times.append(now_ms())

    def _loads(self, step: Step) -> None:
        self._load()

    def _load(self) -> None:
        self.loaded += 1
        value, said = str(self.loaded % 2 == 1).lower(), self.times[self.loaded]
        self.place.warehouse.load(CUSTOMER, AUDIENCE, value, said=said)

    def _accepts(self, step: Step) -> None:
        self._accept(step.number)

    def _accept(self, version: int) -> None:
        assert self.place.lax.receive(self._call(version)) == 200
        self.answered.add(version)
        ((newest,),) = self._read("SELECT max(id) FROM inbox", part="syncer-queue.db")
        self.requests[newest] = version

    def _loses(self, step: Step) -> None:
        call = self._call(step.number)
        part = self._begin("receiver", ["accept.inside", NEVER], lambda _: self._receive(call))
        part.kill()

    def _receive(self, call: dict[str, Any]) -> None:
        self.place.lax.receive(call)

    def _call(self, version: int) -> dict[str, Any]:
        at = datetime.fromtimestamp(self.times[version] / 1000, UTC)
        event = membership(CUSTOMER, AUDIENCE, version % 2 == 1)
        said = at.isoformat(timespec="milliseconds")
        return {"batch": [{**event, "messageId": str(version), "timestamp": said}]}

    def _processes(self, step: Step) -> None:
        """The product takes calls as they came; what came twice is processed twice."""
        while (waiting := self._inbox()) and waiting[0] in self.processed - {step.number}:
            self.place.lax.process()
        if waiting[:1] != [step.number]:
            raise NoCounterpart
        self.place.lax.process()
        self.processed.add(step.number)

    def _pulls(self, step: Step) -> None:
        if any(part.what in ("run", "approval") for part in self.at_work.values()):
            raise NoCounterpart  # one run at a time
        end = next((later for later in self._ahead if later.what != "pulls"), None)
        dies = end is not None and end.what == "run_dies"
        strict = end is not None and end.what == "commits" and end.number == 1
        parts, full = (self.place.strict if strict else self.place.lax), self.rng.random() < 0.5
        last = self.rng.choice(DEATHS) if dies else "commit.before"
        halts = [*dict.fromkeys(["commit.before", last]), NEVER if dies else "commit.after"]
        self.at_work[step.part] = self._begin("run", halts, lambda stop: parts.run(stop, full=full))

    def _commits(self, step: Step) -> None:
        self._at_work(step).finish()

    def _run_dies(self, step: Step) -> None:
        part = self._at_work(step)
        if len(part.ahead) > 1:
            part.go_on()
        part.kill()

    def _rejects(self, step: Step) -> None:
        self.place.lax.reject(self._held_since())

    def _begins_approval(self, step: Step) -> None:
        run, parts = self._held_since(), self.place.lax
        self.at_work[step.part] = self._begin(
            "approval", ["pull.before", "commit.after"], lambda stop: parts.approve(stop, run)
        )

    def _approves(self, step: Step) -> None:
        self._at_work(step).finish()

    def _claims(self, step: Step) -> None:
        if not self._read("SELECT 1 FROM customer WHERE due_at IS NOT NULL AND claimed_by IS NULL"):
            raise NoCounterpart  # nothing is due, or another one has it
        halts = ["claim.after", "outcome.before", "outcome.after"]
        self.at_work[step.part] = self._begin("worker", halts, self.place.lax.deliver)

    def _puts(self, step: Step) -> None:
        self._at_work(step, keep=True).go_on()

    def _acknowledges(self, step: Step) -> None:
        self._at_work(step).finish()

    def _dies_before_put(self, step: Step) -> None:
        self._at_work(step).kill()
        self.place.lax.bury()

    _dies_after_put = _dies_before_put

    def _begin(self, what: str, halts: Sequence[str], work: Work) -> Part:
        return Part.begin(what, self.place.folder / f"{what}.log", halts, work)

    def _at_work(self, step: Step, *, keep: bool = False) -> Part:
        if step.part not in self.at_work:
            raise NoCounterpart  # it could not begin
        return self.at_work[step.part] if keep else self.at_work.pop(step.part)

    def _held_since(self) -> int:
        runs = self._read("SELECT since_run FROM hold WHERE decision IS NULL")
        if not runs:
            raise NoCounterpart
        return int(runs[0][0])

    # What there is to see

    def look(self) -> Seen:
        """Return what the real parts have; the properties that hold at each moment must hold."""
        ((traits, stamps, due),) = self._read(
            "SELECT traits, event_times, rev <> acked_rev FROM customer"
        )
        called = orjson.loads(stamps or "{}").get(AUDIENCE)
        seen = Seen(
            orjson.loads(traits).get(AUDIENCE) is True,
            self._version(called[0]) if called else 0,
            bool(due),
            frozenset(self._inbox()),
            self._kept("decision IS NULL"),
            self._kept("decision = 'rejected'"),
            self.place.amberflo.customers[CUSTOMER]["traits"][AUDIENCE] is True,
        )
        self._check(seen)
        self.kept_back = {seen.held, seen.rejected} - {0}
        return seen

    def _check(self, seen: Seen) -> None:
        writes = [write.traits[AUDIENCE] for write in self.place.amberflo.writes]
        self.place.amberflo.writes.clear()
        assert not (self.kept_back and False in writes), "what is held or rejected was sent"
        assert self.answered <= seen.inbox | self.processed, "an accepted call is lost"
        writing = any(part.what == "worker" for part in self.at_work.values())
        assert seen.due or writing or seen.amberflo == seen.member, "acknowledged, and not there"
        said = self._read(f"SELECT observed_at FROM change WHERE key = '{AUDIENCE}' ORDER BY id")
        assert said == sorted(said), "an older word took the place of a newer one"

    def _says(self, model: Facts, seen: Seen) -> Seen:
        """Return what the model says. Where a pull has the last word, a call's time may stay; a
        call that came twice waits twice."""
        return Seen(
            model.known % 2 == 1,
            model.known if model.by_call else seen.called,
            model.due,
            model.inbox | (seen.inbox & self.processed),
            model.held,
            model.rejected,
            model.amberflo,
        )

    def _inbox(self) -> list[int]:
        """Return the versions of the calls that wait, in the order in which they came."""
        rows = self._read("SELECT id FROM inbox ORDER BY id", part="syncer-queue.db")
        return [self.requests[number] for (number,) in rows]

    def _kept(self, which: str) -> int:
        rows = self._read(
            "SELECT observed_at FROM held_change JOIN hold ON hold.id = held_change.hold "
            f"WHERE held_change.ended_at IS NULL AND {which}"
        )
        return self._version(rows[0][0]) if rows else 0

    def _version(self, at: int) -> int:
        return self.times.index(at)

    def _read(self, sql: str, part: str = "syncer.db") -> list[Any]:
        path = self.place.folder / part
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as state:
            return state.execute(sql).fetchall()
