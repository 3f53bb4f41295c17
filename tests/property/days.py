"""A history of days, rule by rule: what may happen to rows, calls, runs and states."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from syncer.cli import main
from syncer.sandbox.amberflo import running
from syncer.sandbox.faults import Faults
from tests.faults import points
from tests.faults.amberflo import Recorder
from tests.faults.fork import fork
from tests.support import calls
from tests.support.clock import moved
from tests.support.installation import API_KEY, Installation
from tests.support.warehouse import Warehouse, text

from .engage import AUDIENCES, COMPUTED, CUSTOMERS, STRANGERS, TRAITS, read
from .watch import MAX_EXITS, MIN_EXITS, Memory, Watch

#: Hours after which a pull could know what a call said.
LOADED = 4.0
COMMANDS = [*[("sync",)] * 3, *[("sync", "--full")] * 2, ("resync", "--yes")]
#: Where a run may be killed: before its commit, in it, after it, in its delivery.
POINTS = [
    *("pull.after", "commit.before", "commit.middle", "commit.last", "commit.after"),
    *("claim.after", "put.before", "put.after", "outcome.before", "finish.before"),
]
#: A run that went well, one with problems, and one that holds something.
ENDED = (0, 1, 3)

customers = st.sampled_from(CUSTOMERS)
audiences = st.sampled_from(AUDIENCES)
#: Some of them, often many: broken loads do not lose one row.
groups = st.lists(customers, min_size=1, max_size=14, unique=True)
#: What the clock of a call's sender says, in hours before now.
clocks = st.sampled_from([0.0, 0.0, 0.1, 1.0, 48.0, -0.05, -20 * 8766.0, 57 * 8766.0])


class Days(RuleBasedStateMachine):
    """A history, rule by rule. After each command the watch looks at what it did."""

    def __init__(self) -> None:
        super().__init__()
        self._open = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="days-", dir=_memory()))
        self._open.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.clock = self._open.enter_context(moved())
        self.watch = Watch()
        self.warehouse = Warehouse(self.folder / "engage.db")
        self._open.callback(self.warehouse.close)
        self.installation = Installation(self.folder, Recorder(API_KEY), "")
        self._serve()
        self.lost: list[tuple[Any, ...]] = []
        self.merging: list[tuple[str, str, list[tuple[Any, ...]], set[str]]] = []
        self.copies: list[tuple[Path, Memory]] = []
        #: by customer, what a call said last of the name, and when that is said to be
        self.names: dict[str, tuple[str, str]] = {}
        self.number = 0
        #: whether the last step went as it should
        self.well = True

    # The place

    @property
    def state(self) -> Path:
        return self.folder / "syncer.db"

    @property
    def amberflo(self) -> Recorder:
        recorder = self.installation.amberflo
        assert isinstance(recorder, Recorder)
        return recorder

    def _serve(self) -> None:
        self.installation.amberflo_url = self._open.enter_context(running(self.amberflo))
        guard = f"[guard]\nmax_exits = {MAX_EXITS}\nmin_exits = {MIN_EXITS}\n"
        self.installation.configure(patience="0.2s", more=guard)
        self.taken = 0

    def teardown(self) -> None:
        try:
            if self.number and self.well:
                self.in_peace()
        finally:
            self._open.close()

    # Commands

    def run(self, *words: str, good: tuple[int, ...] = ENDED, **decided: frozenset[int]) -> None:
        """Run a command and look at what it did."""
        self._pass(0.02)
        engage = read(self.warehouse.db)
        self.well = False
        self.installation.run(*words, exit_code=good)
        self._looked_at(engage, **decided)
        self.well = True

    def _looked_at(self, engage: Any, **decided: frozenset[int]) -> None:
        writes = self.amberflo.writes[self.taken :]
        self.taken = len(self.amberflo.writes)
        self.watch.ran(self.state, engage, writes, hours=self.clock.hours, **decided)
        assert not self.watch.violations, "\n".join(self.watch.violations)

    def _pass(self, hours: float) -> None:
        self.clock.move(hours)
        self.number += 1

    # What Engage computes, and how it is loaded

    @initialize()
    def begin(self) -> None:
        for place, customer_id in enumerate(CUSTOMERS):
            self.warehouse.user(customer_id, vip="true" if place < 12 else "false")
            if place % 2:
                self.warehouse.say(customer_id, "gold", "true", ago=20)
            if place % 3 == 0:
                self.warehouse.say(customer_id, COMPUTED, str(place + 2), ago=20)
        self.run("sync")

    @rule(who=customers, key=audiences, value=st.sampled_from(["true", "false", None]))
    def a_row_comes(self, who: str, key: str, value: str | None) -> None:
        self._say(who, key, value)

    @rule(who=customers, value=st.sampled_from(["2", "3", None]))
    def a_value_comes(self, who: str, value: str | None) -> None:
        self._say(who, COMPUTED, value)

    @rule(who=customers, value=st.sampled_from(["Ada", "Zoë", None]))
    def a_name_comes(self, who: str, value: str | None) -> None:
        self._say(who, "name", value)

    @rule(who=groups, key=audiences, value=st.sampled_from(["false", "true", None]))
    def many_rows_come(self, who: list[str], key: str, value: str | None) -> None:
        for customer_id in who:
            self._say(customer_id, key, value)

    @rule(who=groups, key=st.sampled_from(TRAITS), runs=st.booleans())
    def rows_are_lost(self, who: list[str], key: str, runs: bool) -> None:
        self._pass(0.02)
        for customer_id in who:
            self.lost += self.warehouse.db.execute(
                "DELETE FROM user_traits WHERE name = ? AND canonical_segment_id IN (SELECT "
                "canonical_segment_id FROM user_identifiers WHERE value = ?) RETURNING *",
                (key, customer_id),
            ).fetchall()
        for customer_id in who[:2]:  # so that a run comes by some of them
            self._say(customer_id, "name", "Touched")
        if runs:
            self.run("sync")

    @precondition(lambda self: self.lost)
    @rule(again=st.booleans())
    def lost_rows_come_back(self, again: bool) -> None:
        """As they were, or loaded anew; those that something newer replaced stay away."""
        self._pass(0.02)
        loaded = text(_now())
        cursor = self.warehouse.db.execute("SELECT canonical_segment_id, name FROM user_traits")
        taken = set(cursor.fetchall())
        for row in self.lost:
            if (row[0], row[1]) not in taken:
                taken.add((row[0], row[1]))
                row = (*row[:5], loaded, row[6]) if again else row
                self.warehouse.db.execute("INSERT INTO user_traits VALUES (?,?,?,?,?,?,?)", row)
        self.lost = []

    @rule(who=customers, first=st.sets(st.sampled_from(["merge", "identifier", "traits"])))
    def a_merge_begins(self, who: str, first: set[str]) -> None:
        """A customer's profile goes into a new one; of what that brings, some is loaded first."""
        self._pass(0.02)
        if any(customer_id == who for customer_id, *_ in self.merging):
            return
        rows = self.warehouse.db.execute(
            "SELECT canonical_segment_id FROM user_identifiers WHERE value = ?", (who,)
        ).fetchall()
        if len(rows) != 1:
            return
        old, new = rows[0][0], f"p{self.number}-{who}"
        traits = self.warehouse.db.execute(
            "DELETE FROM user_traits WHERE canonical_segment_id = ? RETURNING *", (old,)
        ).fetchall()
        self.warehouse.lose_profile(old)
        self.merging.append((who, old, [(new, *row[1:]) for row in traits], set()))
        self._load(len(self.merging) - 1, first)

    @precondition(lambda self: self.merging)
    @rule(rest=st.sets(st.sampled_from(["merge", "identifier", "traits"]), min_size=1))
    def a_merge_goes_on(self, rest: set[str]) -> None:
        self._pass(0.02)
        self._load(0, rest)

    def _load(self, place: int, parts: set[str]) -> None:
        who, old, traits, done = self.merging[place]
        new = traits[0][0] if traits else f"p-again-{who}"
        loaded = text(_now())
        for part in sorted(parts - done):
            if part == "merge":
                self.warehouse.merge(old, new, ago=0.0)
            elif part == "identifier":
                self.warehouse.identify(who, ago=0.0, profile=new)
            else:
                for row in traits:
                    row = (*row[:5], loaded, row[6])
                    self.warehouse.db.execute("INSERT INTO user_traits VALUES (?,?,?,?,?,?,?)", row)
        done |= parts
        if done == {"merge", "identifier", "traits"}:
            del self.merging[place]

    @rule(who=st.lists(customers, min_size=1, max_size=13, unique=True))
    def users_are_deleted(self, who: list[str]) -> None:
        self._pass(0.02)
        for customer_id in who:
            profiles = self.warehouse.db.execute(
                "SELECT canonical_segment_id FROM user_identifiers WHERE value = ?", (customer_id,)
            ).fetchall()
            for (profile,) in profiles:
                self.warehouse.lose_profile(profile)
        self.lost = []

    @rule(who=customers)
    def a_user_is_there_again(self, who: str) -> None:
        self._pass(0.02)
        if who not in read(self.warehouse.db).known:
            self.warehouse.user(who, ago=0.0, vip="true")

    def _say(self, who: str, key: str, value: str | None) -> None:
        """A new row of a customer's profile, loaded now."""
        self._pass(0.02)
        profile = self.warehouse.db.execute(
            "SELECT canonical_segment_id FROM user_identifiers WHERE value = ?", (who,)
        ).fetchone()
        if profile is not None:
            self.warehouse.say(who, key, value, ago=0.0, profile=profile[0])

    # Calls

    @rule(who=st.sampled_from([*CUSTOMERS, *STRANGERS]), key=audiences, value=st.booleans())
    def a_call_of_engage_comes(self, who: str, key: str, value: bool) -> None:
        self._take(calls.membership(who, key, value))
        self.watch.call(who, key, value)

    @rule(who=customers, key=audiences, value=st.booleans(), hours=clocks)
    def a_call_with_a_wrong_clock_comes(
        self, who: str, key: str, value: bool, hours: float
    ) -> None:
        self._take({**calls.membership(who, key, value), "timestamp": _said(hours)})
        self.watch.call(who, key, value)

    @rule(who=customers, value=st.sampled_from([7, None]))
    def a_call_of_a_value_comes(self, who: str, value: int | None) -> None:
        self._take(calls.membership(who, COMPUTED, value, kind="trait"))
        self.watch.call(who, COMPUTED, value)

    @rule(who=customers, value=st.sampled_from(["Grace", "Edsger"]), hours=clocks)
    def a_name_is_called(self, who: str, value: str, hours: float) -> None:
        self._take({**calls.identify(who, name=value), "timestamp": _said(hours)})
        said = hours if 0 <= hours < 1000 else 0.0  # what nobody believes counts as of its receipt
        at = text(_now() - said * 3_600_000)
        if at > self.names.get(who, ("", ""))[1]:
            self.names[who] = value, at

    def _take(self, event: dict[str, Any]) -> None:
        self._pass(0.02)
        self.well = False
        calls.take(self.installation.config, event)
        self.watch.sorted(self.state)
        self.well = True

    # Runs

    @rule(command=st.sampled_from(COMMANDS))
    def a_run(self, command: tuple[str, ...]) -> None:
        self._engage_wins(command)
        self.run(*command)

    @rule(who=customers)
    def one_is_sent_again(self, who: str) -> None:
        self.names.pop(who, None)
        self.run("resync", "--customer", who, "--yes", good=(*ENDED, 2))

    @rule(
        command=st.sampled_from(COMMANDS),
        faults=st.sampled_from(["500=1", "500=0.5", "drop_after=0.6", "drop_before=1"]),
    )
    def a_run_with_amberflo_in_trouble(self, command: tuple[str, ...], faults: str) -> None:
        self._engage_wins(command)
        self.amberflo.faults = Faults.parse(faults, seed=self.number)
        self.run(*command)
        self.amberflo.faults = Faults()

    @rule(command=st.sampled_from(COMMANDS), point=st.sampled_from(POINTS))
    def a_run_that_is_killed(self, command: tuple[str, ...], point: str) -> None:
        self._engage_wins(command)
        self._pass(0.02)
        engage = read(self.warehouse.db)

        def go(_lifeline: int, _tell: int) -> int:
            points.patch(lambda reached, _hit: os._exit(9) if reached == point else None)
            sys.argv = ["syncer", *command, "--config", str(self.installation.config)]
            main()

        self.well = False
        child = fork("run", self.folder / f"killed-{self.number}.log", go)
        child.calls_told()
        assert child.wait(30)
        child.let_end()
        assert child.status in (*ENDED, 9), child.log.read_text()
        self._looked_at(engage)
        self.well = True

    def _engage_wins(self, command: tuple[str, ...]) -> None:
        if command[0] == "resync":
            self.names = {}

    # Decisions

    @precondition(lambda self: self.watch.state.open_holds)
    @rule(word=st.sampled_from(["approve", "reject", "reject"]), which=st.integers(0, 3))
    def somebody_decides(self, word: str, which: int) -> None:
        runs = self._asked("SELECT DISTINCT since_run FROM hold WHERE decision IS NULL ORDER BY 1")
        run = runs[which % len(runs)]
        theirs = frozenset(
            self._asked(
                "SELECT id FROM hold WHERE decision IS NULL AND id IN "
                f"(SELECT hold FROM run_trait WHERE run = {run} "
                f"UNION SELECT hold FROM run WHERE id = {run})"
            )
        )
        none: frozenset[int] = frozenset()
        approved, rejected = (theirs, none) if word == "approve" else (none, theirs)
        self.run("runs", word, str(run), "--yes", approved=approved, rejected=rejected)
        self.run("sync", "--full")

    @precondition(lambda self: any(rejected for *_, rejected in self.watch.state.kept.values()))
    @rule()
    def a_rejection_is_lifted(self) -> None:
        (run, *_) = self._asked("SELECT since_run FROM hold WHERE decision = 'rejected' ORDER BY 1")
        theirs = self._asked(
            f"SELECT id FROM hold WHERE decision = 'rejected' AND since_run = {run}"
        )
        self.run("runs", "lift", str(run), good=(0, 2), lifted=frozenset(theirs))

    def _asked(self, sql: str) -> list[int]:
        with closing(sqlite3.connect(f"file:{self.state}?mode=ro", uri=True)) as state:
            return [int(row[0]) for row in state.execute(sql)]

    # The state itself

    @precondition(lambda self: self.state.exists())
    @rule()
    def the_state_is_copied(self) -> None:
        self._pass(0.02)
        target = self.folder / f"copy-{self.number}.db"
        with (
            closing(sqlite3.connect(self.state)) as state,
            closing(sqlite3.connect(target)) as copy,
        ):
            state.backup(copy)
        self.copies.append((target, self.watch.copy()))

    @rule(what=st.sampled_from(["restored", "restored", "lost", "another account"]))
    def a_bad_day(self, what: str) -> None:
        """An older copy of the state is restored, or it is lost, or the account is another one."""
        self._pass(0.02)
        if what == "another account":
            self._move_to_another_account()
            return
        if what == "restored" and not self.copies:
            return
        self._remove_state()
        self.names, memory = {}, Memory()
        if what == "restored":
            copy, memory = self.copies.pop()
            copy.rename(self.state)
        else:
            self.copies = []
        self.watch.another_state(self.state, memory)

    def _move_to_another_account(self) -> None:
        """Nothing goes there before somebody says so."""
        self.installation.amberflo = Recorder(API_KEY)
        self._serve()
        self.watch.another_account()
        if any(not customer.due for customer in self.watch.state.customers.values()):
            self.run("sync", good=(1, 2))
            assert not self.amberflo.writes
        self.run("sync", "--new-account")

    def _remove_state(self) -> None:
        for path in self.folder.glob("syncer.db*"):
            path.unlink()

    # Time, and peace

    @rule(hours=st.sampled_from([0.5, 2.5, 5.0, 26.0]))
    def time_passes(self, hours: float) -> None:
        self._pass(hours)

    @rule()
    def in_peace(self) -> None:
        """What calls said could be known by now; all is compared and delivered."""
        self._pass(LOADED)
        self.warehouse.merge("nobody", "nobody", ago=0.0)  # the warehouse is loaded up to now
        self.run("sync", "--full", good=(0, 3))
        engage = read(self.warehouse.db)
        at_amberflo = self.amberflo.customers
        wrong = list(self.watch.equal(engage, at_amberflo, self._expected_names(engage)))
        assert not wrong, "\n".join(wrong)
        before = len(self.amberflo.writes)
        self.run("sync", "--full", good=(0, 3))
        assert len(self.amberflo.writes) == before, self.amberflo.writes[before:]
        self.installation.run("state", "check")

    def _expected_names(self, engage: Any) -> dict[str, str]:
        """The newest of row and call; nobody's name where there is no row."""
        by_customer = {}
        for (customer_id, key), said in engage.said.items():
            if key == "name":
                called, at = self.names.get(customer_id, ("", ""))
                name = called if at > said.at else said.value
                by_customer[customer_id] = name or customer_id
        return by_customer


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _now() -> float:
    return time.time() * 1000


def _said(hours: float) -> str:
    """A time so many hours before now, as a client writes it."""
    return text(_now() - hours * 3_600_000).replace(" ", "T") + "Z"
