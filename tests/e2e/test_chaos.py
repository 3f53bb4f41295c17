"""Every process of a daemon is killed, and what its threads use is broken, in turn.

Each time it is on record and alerted within a minute, comes back by itself, and `/readyz` never
says "ready" meanwhile. The environment is odd from the start: a time zone that is none, no folder
for temporary files. Later the clock is set, and names are not found.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
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
from tests.support.shifted import shifted_clock
from tests.support.webhook import Webhook, webhook

#: Seconds within which all must be well again.
BACK = 60.0
SOON = '[schedule]\nevery = "1s"\njitter = "0s"\n'


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as hook:
        yield hook


@contextmanager
def running(
    installation: Installation,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
    *,
    zone: str = ":/nonsense",
    more: str = "",
    program: str = "syncer",
) -> Iterator[Daemon]:
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    alerts = f'[alerts]\nwebhook = "{hook.url}"\n'
    with daemon(installation, more=alerts + more, program=program) as service:
        yield service


def ready(service: Daemon) -> bool:
    try:
        return service.client.get(f"{service.ops}/readyz").text == "ready\n"
    except httpx.HTTPError:
        return False


def named(service: Daemon) -> str:
    """What /readyz says while it is not ready."""
    answer = service.client.get(f"{service.ops}/readyz")
    return answer.text if answer.status_code == 503 else ""


def wait_for_ready(service: Daemon) -> None:
    wait_until(lambda: ready(service), BACK, what="ready")


def call(service: Daemon) -> str:
    """Send a call that must be taken; gives its messageId."""
    name = unique()
    service.send("track", track(messageId=name))
    return name


# -- processes


def test_killed_processes_come_back_and_calls_go_on(
    installation: Installation, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = f'[web]\nlisten = "127.0.0.1:{free_port()}"\ntoken = "{"t" * 32}"\n'
    with running(installation, hook, monkeypatch, zone="Asia/Kathmandu", more=page) as service:
        for name in ("worker", "page"):
            (victim,) = beside(service.process.pid, name)
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: not ready(service), 20, what="not ready")
            # Until another one is there, nothing says that it is.
            while not beside(service.process.pid, name):
                was_ready = ready(service)
                assert not was_ready or beside(service.process.pid, name)
            sent = call(service)
            wait_for_ready(service)
            hook.wait_for(name, "killed by signal 9 (out of memory?)")
            assert service.records(sent)
            told = [line for line in service.log if f"{name}: its process was killed" in line]
            assert len([line for line in told if " syncer: " in line]) == 1
            assert any(f"{name}: it works again" in line for line in service.log)


def test_what_hangs_or_breaks_comes_back(
    installation: Installation,
    engage: EngageSandbox,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that is stopped; and each thread of the daemon, by an error that nobody expects."""
    engage.fill(5, 1)
    door = installation.folder / "door"
    monkeypatch.setenv("DOOR", str(door))
    path = installation.folder / "syncer.db"
    with running(installation, hook, monkeypatch, program="tests.support.door") as service:
        service.first_run()
        os.kill(service.worker, signal.SIGSTOP)
        for part in ("reload", "ops", "inbox writer", "receiver", "alerts", "schedule"):
            kind = "CancelledError" if part in ("ops", "receiver") else "Broken"
            died = f"{part}: an unexpected {kind}; the log has where"
            break_thread(service, door, part, died)
            hook.wait_for(died)
            assert any(f" ERROR syncer: {died}" in line for line in service.log)
            assert recorded(path, died)
            wait_until(lambda p=part: p not in named(service), BACK, what=f"{part} again")  # type: ignore[misc]
        hook.wait_for("worker: its process hung, and was killed")
        assert recorded(path, "its process hung, and was killed")
        wait_for_ready(service)
        assert service.records(call(service))
        service.log.clear()  # it has the ways to these errors


def break_thread(service: Daemon, door: Path, part: str, died: str) -> None:
    """Break a thread until it dies: what it catches by itself is no end."""
    ask_at = 0.0

    def dead() -> bool:
        nonlocal ask_at
        if any(died in line for line in service.log):
            return True
        if time.monotonic() >= ask_at:
            door.with_suffix(".new").write_text(part)
            door.with_suffix(".new").rename(door)
            ask_at = time.monotonic() + 0.3
        return False

    wait_until(dead, BACK, what=died)


def test_a_killed_run_is_on_record_and_made_again(
    installation: Installation,
    engage: EngageSandbox,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once as soon as it is there, once in the middle of its delivery."""
    engage.fill(60, 3)
    installation.amberflo.faults = Faults.parse("slow=1,slow_seconds=0.05")
    with running(installation, hook, monkeypatch) as service:
        for number in (1, 2):
            wait_until(lambda: beside(service.process.pid, "run"), BACK, what="a run")
            if number == 2:
                wait_until(lambda: installation.puts(), BACK, what="a delivery")
            os.kill(beside(service.process.pid, "run")[0], signal.SIGKILL)
            wait_until(lambda n=number: len(ended(installation)) >= n, BACK, what="its record")  # type: ignore[misc]
        hook.wait_for("run: its process was killed by signal 9")
        hook.wait_for("2 runs in a row failed: its process was killed by signal 9")
        installation.amberflo.faults = Faults()
        wait_until(lambda: ended(installation)[0]["state"] == "done", BACK, what="a good run")
        assert [run["state"] for run in ended(installation)] == ["done", "failed", "failed"]
        service.settle()
        assert installation.holds() == expected_records(engage)
        wait_for_ready(service)


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
    with running(installation, hook, monkeypatch, zone="", more=SOON) as service:
        service.first_run()
        with replaced_by_folder(lock):
            hook.wait_for("runs in a row failed", str(lock))
            assert installation.json("status")["alerts"]
            assert ready(service)  # no part is dead
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
    with running(installation, hook, monkeypatch, more=page) as service:
        service.first_run()
        path = installation.folder / "syncer.db"
        on_record = partial(recorded, path, ended=True)
        for part, (breaks, mends) in BROKEN.items():
            execute(path, breaks)
            wait_until(lambda name=part: name in named(service), BACK, what=f"the end of {part}")  # type: ignore[misc]
            # The daemon may mend it before, as it writes its schedule anew: the record stays.
            wait_until(lambda name=part: name in on_record(), BACK, what="its record")  # type: ignore[misc]
            execute(path, mends)
            wait_for_ready(service)
            hook.wait_for(part)
            wait_until(lambda name=part: name not in recorded(path), BACK, what="the end on record")  # type: ignore[misc]
        assert not [text for text in hook.texts if "it comes and goes" in text]  # no second alert
        # Of what nobody expected, a text that is no JSON, the log has the way once; else one line.
        assert sum(line.startswith("Traceback") for line in service.log) <= 1
        service.log.clear()


def recorded(path: Path, text: str | None = None, *, ended: bool = False) -> set[str]:
    """The parts that have a problem on record, or `ended` had one; with a text those that had that
    one last."""
    which = ("1" if ended else "ended_at IS NULL") if text is None else f"instr('{text}', text)"
    with closing(sqlite3.connect(path, timeout=20)) as connection:
        return {part for (part,) in connection.execute(f"SELECT part FROM problem WHERE {which}")}


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, timeout=20)) as connection, connection:
        connection.execute(statement)


def limit(service: Daemon, kind: int, value: Callable[[int], int]) -> Callable[[], None]:
    """Lower a limit of the daemon and its processes to `value(process)`; gives what restores it."""
    before: dict[int, tuple[int, int]] = {}
    for process in (service.process.pid, *descendants(service.process.pid)):
        with suppress(OSError):  # it may end meanwhile: a run, for instance
            soft, hard = resource.prlimit(process, kind)
            resource.prlimit(process, kind, (value(process), hard))
            before[process] = soft, hard

    def restore() -> None:
        for process in (service.process.pid, *descendants(service.process.pid)):
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
    with running(installation, hook, monkeypatch, more=SOON) as service:
        service.first_run()
        before = call(service)
        restore = limit(service, resource.RLIMIT_FSIZE, lambda process: 4096)
        assert service.post("track", track()).status_code == 503
        wait_until(lambda: not ready(service), 20, what="not ready")
        hook.wait_for("no alert can be recorded")
        restore()
        wait_for_ready(service)
        hook.wait_for("over: no alert can be recorded")
        after = call(service)
        assert service.records(before, after)


def test_no_more_descriptors(
    installation: Installation, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(installation, hook, monkeypatch, more=SOON) as service:
        service.first_run()
        restore = limit(service, resource.RLIMIT_NOFILE, as_many_as_open)
        told = "oo many open files"
        wait_until(lambda: any(told in line for line in service.log), BACK, what="it in the log")
        time.sleep(1.5)  # so that it lasts for every part
        restore()
        wait_for_ready(service)
        hook.wait_for("oo many open files")
        runs = len(ended(installation))
        wait_until(lambda: len(ended(installation)) > runs, BACK, what="a run")
        assert service.records(call(service))


def test_names_that_are_not_found(
    installation: Installation,
    engage: EngageSandbox,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Amberflo's, then the warehouse's; both are mended by a reload."""
    engage.fill(5, 1)
    with running(installation, hook, monkeypatch) as service:
        service.first_run()
        good = installation.config.read_text(encoding="utf-8") + SOON
        good = good.replace("rate = 0\n", 'rate = 0\npatience = "1.5s"\n')
        lost = good.replace(installation.amberflo_url, "http://amberflo.invalid")
        engage.evolve(hours=2.5, fraction=1.0)
        for config, part in (
            (lost, "customers"),
            (good.replace(installation.source_url, NO_WAREHOUSE), "source"),
        ):
            reload(service, config)
            problem = hook.wait_for(f"{part}: ", "invalid")
            assert "secret" not in problem
            said = installation.json("status")["problems"]
            assert any(entry["part"] == part and "invalid" in entry["text"] for entry in said)
            assert ready(service)  # no part is dead
            reload(service, good)
            wait_until(
                lambda p=part: p not in {entry["part"] for entry in problems(installation)},  # type: ignore[misc]
                BACK,
                what="its end",
            )
        service.settle()
        wait_until(lambda: installation.holds() == expected_records(engage), BACK, what="equal")


NO_WAREHOUSE = "postgresql+psycopg://reader:secret@warehouse.invalid/segment"


def problems(installation: Installation) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = installation.json("status")["problems"]
    return rows


def reload(service: Daemon, config: str) -> None:
    service.installation.config.write_text(config, encoding="utf-8")
    service.process.send_signal(signal.SIGHUP)


def test_a_clock_that_is_set(
    installation: Installation,
    engage: EngageSandbox,
    hook: Webhook,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two hours on, then a day back: runs go on, and what dies is told and comes back."""
    engage.fill(5, 1)
    page = f'[web]\nlisten = "127.0.0.1:{free_port()}"\ntoken = "{"t" * 32}"\n'
    with (
        shifted_clock(installation.folder, monkeypatch) as set_clock,
        running(installation, hook, monkeypatch, more=SOON + page) as service,
    ):
        service.first_run()
        for seconds, part in ((7_200, "worker"), (-86_400, "page")):
            service.log.clear()
            set_clock(seconds)
            wait_until(lambda: any("the clock was set" in line for line in service.log), BACK)
            before = ended(installation)[0]["run"]
            (victim,) = beside(service.process.pid, part)
            os.kill(victim, signal.SIGKILL)
            hook.wait_for(f"{part}: its process was killed by signal 9")
            wait_for_ready(service)
            assert service.records(call(service))
            wait_until(
                lambda b=before: is_good(ended(installation)[0], after=b),  # type: ignore[misc]
                BACK,
                what="a run",
            )


def is_good(run: dict[str, Any], *, after: int) -> bool:
    return bool(run["state"] == "done" and run["run"] > after + 1)
