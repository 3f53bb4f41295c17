"""Every process of a daemon is killed, and what its threads use is broken, in turn.

Each time it is on record and alerted within a minute, comes back by itself, and `/readyz` never
says "ready" meanwhile. The environment is odd from the start: a time zone that is none, no folder
for temporary files.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.support.daemon import Daemon, daemon
from tests.support.events import track, unique
from tests.support.installation import Installation, expected_records
from tests.support.processes import beside, descendants, free_port, wait_until
from tests.support.webhook import Webhook, webhook

#: Seconds within which all must be well again.
BACK = 60.0
SOON = '[schedule]\nevery = "3s"\njitter = "1s"\n'


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as found:
        yield found


@contextmanager
def running(
    installation: Installation,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
    *,
    zone: str = ":/nonsense",
    more: str = "",
) -> Iterator[Daemon]:
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    with daemon(installation, more=f'[alerts]\nwebhook = "{hook.url}"\n{more}') as found:
        yield found


def ready(found: Daemon) -> bool:
    try:
        return found.client.get(f"{found.ops}/readyz").text == "ready\n"
    except httpx.HTTPError:
        return False


def named(found: Daemon) -> str:
    """What /readyz says while it is not ready."""
    answer = found.client.get(f"{found.ops}/readyz")
    return answer.text if answer.status_code == 503 else ""


def wait_for_ready(found: Daemon) -> None:
    wait_until(lambda: ready(found), BACK, what="ready")


def call(found: Daemon) -> str:
    """Send a call that must be taken; gives its messageId."""
    name = unique()
    found.send("track", track(messageId=name))
    return name


# -- processes


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", ""])
def test_killed_processes_come_back_and_calls_go_on(
    installation: Installation, hook: Webhook, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    page = f'[web]\nlisten = "127.0.0.1:{free_port()}"\ntoken = "{"t" * 32}"\n'
    with running(installation, hook, monkeypatch, zone=zone, more=page) as found:
        for name in ("worker", "page"):
            (victim,) = beside(found.process.pid, name)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: not ready(found), 20, what="not ready")
            # Until another one is there, nothing says that it is.
            while not beside(found.process.pid, name):
                was_ready = ready(found)
                assert not was_ready or beside(found.process.pid, name)
            sent = call(found)
            wait_for_ready(found)
            hook.wait_for(name, "killed by signal 9 (out of memory?)")
            assert found.records(sent)
            told = [line for line in found.log if f"{name}: its process was killed" in line]
            assert len([line for line in told if " syncer: " in line]) == 1
            assert any(f"{name}: it works again" in line for line in found.log)


def test_a_killed_run_is_on_record_and_made_again(
    installation: Installation,
    engage: EngageSandbox,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once as soon as it is there, once in the middle of its delivery."""
    engage.fill(60, 3)
    installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=0.05")
    with running(installation, hook, monkeypatch) as found:
        for number in (1, 2):
            wait_until(lambda: beside(found.process.pid, "run"), BACK, what="a run")
            if number == 2:
                wait_until(lambda: installation.puts(), BACK, what="a delivery")
            os.kill(beside(found.process.pid, "run")[0], signal.SIGKILL)
            wait_until(lambda n=number: len(ended(installation)) >= n, BACK, what="its record")  # type: ignore[misc]
        hook.wait_for("run: its process was killed by signal 9")
        hook.wait_for("2 runs in a row failed: its process was killed by signal 9")
        installation.amberflo.faults = Faults()
        wait_until(lambda: ended(installation)[0]["state"] == "done", BACK, what="a good run")
        assert [run["state"] for run in ended(installation)] == ["done", "failed", "failed"]
        found.settle()
        assert installation.holds() == expected_records(engage)
        wait_for_ready(found)


def ended(installation: Installation) -> list[dict[str, Any]]:
    return [run for run in installation.json("runs") if run["ended_at"]]


# -- what they use


def test_locks_that_cannot_be_opened_fail_runs_and_no_more(
    installation: Installation,
    engage: EngageSandbox,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a lock file does that belongs to somebody else; root may open that one."""
    engage.fill(5, 1)
    lock = installation.folder / "syncer.db.lock"
    with running(installation, hook, monkeypatch, more=SOON) as found:
        found.first_run()
        with replaced_by_folder(lock):
            hook.wait_for("runs in a row failed", str(lock))
            assert installation.json("status")["alerts"]
            assert ready(found)  # no part is dead
        number = installation.json("runs")[0]["run"]
        wait_until(
            lambda: any(
                run["state"] == "done" and run["run"] > number for run in installation.json("runs")
            ),
            BACK,
            what="a good run",
        )


@contextmanager
def replaced_by_folder(file: Path) -> Iterator[None]:
    aside = file.with_name("aside")
    file.rename(aside)
    file.mkdir()
    yield
    file.rmdir()
    aside.rename(file)


BROKEN = {
    # part: what breaks it, and what mends it
    "delivery": ("UPDATE worker SET schedule = '{'", "UPDATE worker SET schedule = NULL"),
    "alerts": ("ALTER TABLE alert RENAME TO gone", "ALTER TABLE gone RENAME TO alert"),
    "calls": ("ALTER TABLE trait RENAME TO gone", "ALTER TABLE gone RENAME TO trait"),
    "sizes": ("ALTER TABLE change RENAME TO gone", "ALTER TABLE gone RENAME TO change"),
}


def test_threads_whose_tables_are_broken_come_back(
    installation: Installation, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = f'[web]\nlisten = "127.0.0.1:{free_port()}"\ntoken = "{"t" * 32}"\n'
    with running(installation, hook, monkeypatch, more=page) as found:
        found.first_run()
        path = installation.folder / "syncer.db"
        for part, (breaks, mends) in BROKEN.items():
            execute(path, breaks)
            wait_until(lambda name=part: name in named(found), BACK, what=f"the end of {part}")  # type: ignore[misc]
            wait_until(lambda name=part: name in recorded(path), BACK, what="its record")  # type: ignore[misc]
            execute(path, mends)
            wait_for_ready(found)
            hook.wait_for(part)
            wait_until(lambda name=part: name not in recorded(path), BACK, what="the end on record")  # type: ignore[misc]
        assert not [text for text in hook.texts if "it comes and goes" in text]  # no second alert
        # Of what nobody expected, a text that is no JSON, the log has the way once; else one line.
        assert sum(line.startswith("Traceback") for line in found.log) <= 1
        found.log.clear()


def recorded(path: Path) -> set[str]:
    """The parts that have a problem on record."""
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        return {
            part
            for (part,) in connection.execute("SELECT part FROM problem WHERE ended_at IS NULL")
        }


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        connection.execute(statement)


def limit(found: Daemon, kind: int, value: Callable[[int], int]) -> Callable[[], None]:
    """Lower a limit of the daemon and its processes to `value(process)`; gives what restores it."""
    before: dict[int, tuple[int, int]] = {}
    for process in (found.process.pid, *descendants(found.process.pid)):
        with suppress(OSError):  # it may end meanwhile: a run, for instance
            soft, hard = resource.prlimit(process, kind)
            resource.prlimit(process, kind, (value(process), hard))
            before[process] = soft, hard

    def restore() -> None:
        for process in (found.process.pid, *descendants(found.process.pid)):
            with suppress(OSError):
                hard = resource.prlimit(process, kind)[1]
                resource.prlimit(process, kind, before.get(process, (hard, hard)))

    return restore


def as_many_as_open(process: int) -> int:
    opened = set(map(int, os.listdir(f"/proc/{process}/fd")))
    return min(number for number in range(len(opened) + 1) if number not in opened)


def test_a_disk_that_takes_nothing_more(
    installation: Installation, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(installation, hook, monkeypatch, more=SOON) as found:
        found.first_run()
        before = call(found)
        restore = limit(found, resource.RLIMIT_FSIZE, lambda process: 4096)
        assert found.post("track", track()).status_code == 503
        wait_until(lambda: not ready(found), 20, what="not ready")
        hook.wait_for("no alert can be recorded")
        restore()
        wait_for_ready(found)
        hook.wait_for("over: no alert can be recorded")
        after = call(found)
        assert found.records(before, after)


def test_no_more_descriptors(
    installation: Installation, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(installation, hook, monkeypatch, more=SOON) as found:
        found.first_run()
        restore = limit(found, resource.RLIMIT_NOFILE, as_many_as_open)
        told = "oo many open files"
        wait_until(lambda: any(told in line for line in found.log), BACK, what="it in the log")
        time.sleep(4)  # so that it lasts for every part
        restore()
        wait_for_ready(found)
        hook.wait_for("oo many open files")
        runs = len(ended(installation))
        wait_until(lambda: len(ended(installation)) > runs, BACK, what="a run")
        assert found.records(call(found))
