"""The supervisor: what ends is started again, told once, and not ready until it works."""

from __future__ import annotations

import ast
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from state.errors import StateError
from syncer import retry
from syncer.process import supervisor as module
from syncer.process.child import Down
from syncer.process.problem import ProblemLog
from syncer.process.supervisor import Part, Supervisor, Work
from syncer.process.unexpected import what_happened
from syncer.stop import Stop
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]


class Kept:
    """A supervisor with what it told; it ends with the test."""

    def __init__(self) -> None:
        self.over = Stop()
        self.problems: list[str | None] = []
        self.changes: list[Down] = []
        #: the kinds of the errors to which the log shows the way
        self.ways: list[str] = []
        self.supervisor = Supervisor(self.over, lambda name: self._note, self.changes.append)

    def _note(self, problem: str | None, way: BaseException | None = None) -> None:
        self.problems.append(problem)
        if way is not None:
            self.ways.append(type(way).__name__)

    def start(self, work: Work) -> Part:
        return self.supervisor.start("part", work)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(retry, "BASE", 0.01)
    monkeypatch.setattr(retry, "CAP", 0.05)
    kept = Kept()
    yield kept
    kept.over.set()
    kept.supervisor.join(5)
    assert not [thread for thread in threading.enumerate() if thread.name == "part"]


def fails_first(error: BaseException | None, times: int = 1) -> tuple[Work, list[float]]:
    """Work that fails (or just ends) some times before it works; and when it began."""
    begins: list[float] = []

    def work(part: Part) -> None:
        begins.append(time.monotonic())
        if len(begins) <= times:
            if error is not None:
                raise error
            return
        part.well()
        while not part.wait(0.01):
            pass

    return work, begins


def while_handling(first: OSError) -> RuntimeError:
    """Return an error that was raised while another one was dealt with."""
    try:
        try:
            raise first
        except OSError:
            raise RuntimeError("this event loop is already running")  # noqa: B904
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (StateError("the disk\nis full"), "the disk is full"),
        (OSError(24, "Too many open files", "/a/b"), "Too many open files: /a/b"),
        (while_handling(OSError(24, "Too many open files")), "Too many open files"),
        (while_handling(OSError(2, "x")), "an unexpected RuntimeError; the log has where"),
        (ValueError("a secret"), "an unexpected ValueError; the log has where"),
        (ExceptionGroup("two", [KeyError("x")]), "an unexpected KeyError; the log has where"),
        (MemoryError(), "an unexpected MemoryError; the log has where"),
        (SystemExit(3), "an unexpected SystemExit; the log has where"),
        (None, "it ended by itself"),
    ],
)
def test_what_ends_is_told_and_comes_back(
    kept: Kept, error: BaseException | None, text: str
) -> None:
    work, begins = fails_first(error)
    kept.start(work)
    wait_until(lambda: kept.problems == [text, None], 5)
    assert len(begins) == 2
    assert kept.changes == [{"part": text}, {}]
    assert kept.supervisor.down() == {}
    assert kept.supervisor.troubles() == {"part": text}  # still told for a while


def test_a_part_is_not_ready_until_it_says_so(kept: Kept) -> None:
    ready = threading.Event()

    def work(part: Part) -> None:
        ready.wait(5)
        part.well()
        part.wait(5)

    kept.start(work)
    assert kept.supervisor.down() == {"part": None}
    ready.set()
    wait_until(lambda: kept.supervisor.down() == {}, 5)
    assert not any(kept.problems)


def test_pauses_grow_and_begin_anew_after_a_good_time(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WELL_AFTER", 0.3)
    pauses: list[float] = []
    monkeypatch.setattr(Part, "wait", lambda part, seconds: pauses.append(seconds))

    def work(part: Part) -> None:
        if len(pauses) == 5:
            time.sleep(0.4)
        elif len(pauses) == 7:
            kept.over.set()
        raise OSError

    kept.supervisor.add("part", work).keep()
    assert pauses == [0.01, 0.02, 0.04, 0.05, 0.05, 0.01, 0.02]


def test_an_odd_error_is_one_line_with_its_way_once(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where another error comes between."""
    errors = [ValueError("x"), ValueError("y"), StateError("locked"), ValueError("z")]
    begins: list[float] = []

    def work(part: Part) -> None:
        begins.append(time.monotonic())
        if errors:
            raise errors.pop()
        part.well()
        part.wait(5)

    supervisor = Supervisor(kept.over, ProblemLog)
    with caplog.at_level(logging.ERROR):
        part = supervisor.start("part", work)
        wait_until(lambda: len(begins) == 5 and part.works, 5)
    lines = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
    assert lines == [("part: an unexpected ValueError; the log has where", True)]
    kept.over.set()
    supervisor.join(5)


def test_what_says_no_more_that_it_works_hangs(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.02)
    stuck, patient = threading.Event(), threading.Event()

    def work(part: Part) -> None:
        while not part.wait(0.005):
            part.well()
            if stuck.is_set():
                patient.wait(20)

    part = kept.start(work)
    waiter = kept.supervisor.start("waits for a run", work, patient=True)
    kept.supervisor.watch()
    wait_until(lambda: part.works and waiter.works, 5)
    before = len(kept.changes)
    time.sleep(0.5)
    assert kept.supervisor.down() == {}
    assert len(kept.changes) > before + 5  # said again and again: a sign of life
    stuck.set()
    hangs = "it hangs: it has not moved for 0 s"
    wait_until(lambda: kept.supervisor.down() == {"part": hangs}, 5)
    assert kept.supervisor.troubles() == {"part": hangs}
    assert {"part": hangs} in kept.changes
    assert hangs in kept.problems
    stuck.clear()
    patient.set()
    wait_until(lambda: kept.supervisor.down() == {}, 5)


def test_nothing_in_the_supervisor_itself_ends_a_part(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As no memory does, or a clock that is not as it should be."""
    monkeypatch.setattr(module, "LAST_PAUSE", 0.01)

    def broken(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(Part, "wait", broken)
    supervisor = Supervisor(kept.over, ProblemLog, broken)
    work, begins = fails_first(OSError(28, "No space left on device"), times=3)
    part = supervisor.start("part", work)
    wait_until(lambda: len(begins) > 4, 5)
    assert part.thread is not None
    assert part.thread.is_alive()
    kept.over.set()
    supervisor.join(5)


def test_the_text_of_an_error_can_be_told_whatever_is_in_it() -> None:
    """Names of files may be no text."""
    text = what_happened(OSError(24, "Too many open files", os.fsdecode(b"/tmp/\xff\x1b")))
    assert text == "Too many open files: /tmp/\\udcff\\x1b"
    assert orjson.dumps({"worker": text})


def test_an_expected_error_has_no_traceback(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    work, _ = fails_first(StateError("full"), times=2)
    with caplog.at_level(logging.ERROR):
        kept.start(work)
        wait_until(lambda: None in kept.problems, 5)
    assert not caplog.records


def test_a_record_that_cannot_be_written_ends_nothing(kept: Kept) -> None:
    def problems(name: str) -> Callable[[str | None], None]:
        def broken(text: str | None) -> None:
            raise StateError("full")

        return broken

    supervisor = Supervisor(kept.over, problems)
    work, begins = fails_first(OSError(28, "No space left on device"), times=3)
    supervisor.start("part", work)
    wait_until(lambda: supervisor.down() == {} and len(begins) == 4, 5)
    kept.over.set()
    supervisor.join(5)


def test_an_end_that_was_asked_for_is_no_trouble(kept: Kept) -> None:
    def work(part: Part) -> None:
        part.well()
        part.wait(5)

    part = kept.start(work)
    wait_until(lambda: part.works, 5)
    part.ask_to_end()
    part.join(5)
    assert not any(kept.problems)


def test_a_pause_ends_when_the_end_comes(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE", 20.0)
    monkeypatch.setattr(retry, "CAP", 20.0)
    part = kept.start(fails_first(OSError())[0])
    wait_until(lambda: kept.problems, 5)
    began = time.monotonic()
    kept.over.set()
    part.join(5)
    assert time.monotonic() - began < 2


def test_trouble_inside_of_a_process_is_that_of_a_part(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(part: Part) -> None:
        part.well()
        part.wait(5)

    part = kept.start(work)
    wait_until(lambda: part.works, 5)
    part.contains({"calls": None, "delivery": "broken"})
    assert kept.supervisor.down() == {"calls": None, "delivery": "broken"}
    assert kept.supervisor.troubles() == {"delivery": "broken"}
    part.contains({})
    assert kept.supervisor.down() == {}
    assert kept.supervisor.troubles() == {"delivery": "broken"}
    monkeypatch.setattr(module, "TOLD_FOR", 0)
    assert kept.supervisor.troubles() == {}


def test_what_comes_and_goes_is_told_for_longer(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOLD_FOR", 0)
    supervisor = kept.supervisor
    for told in ({}, {"run": "killed"}, {"run": "killed"}):
        supervisor.tell("run", "killed")
        supervisor.tell("run", "killed")  # the same that lasts
        assert supervisor.troubles() == {"run": "killed"}
        supervisor.tell("run", None)
        supervisor.tell("run", None)
        assert supervisor.troubles() == told
    monkeypatch.setattr(module, "SAME_WITHIN", 0)
    assert supervisor.troubles() == {}


def test_a_text_is_one_line_of_bounded_length() -> None:
    assert len(what_happened(StateError("x" * 5000))) == 500


#: Threads that are no part: each ends with what it is for, and cannot end before.
OTHERS = {
    "syncer/process/child.py",  # the lifeline, whose end is the end of the process, and the beat
    "syncer/web/tasks.py",  # waits for one task
    "syncer/process/problem.py",  # writes down a problem, and is started again with the next
    "syncer/sync/source_watch.py",  # watches one question to the source
    "syncer/daemon/channels.py",  # sends one text, to a service that may answer for ever
    "syncer/process/supervisor.py",
}


def test_only_the_supervisor_starts_threads() -> None:
    starters = set()
    for file in sorted((ROOT / "syncer").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) == "Thread":
                starters.add(file.relative_to(ROOT).as_posix())
    assert "syncer/process/supervisor.py" in starters
    assert {starter for starter in starters if not starter.startswith("syncer/sandbox/")} <= OTHERS


def _name(node: Any) -> str:
    return str(getattr(node, "attr", getattr(node, "id", "")))
