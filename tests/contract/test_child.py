"""The child processes of the daemon: what they import, and what the list of processes shows."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from syncer.config import Config
from syncer.process import child
from syncer.process.child import ChildProcess
from syncer.process.supervisor import Process, Supervisor
from syncer.process.unexpected import Died

GIVEN = {"amberflo": {"api_key": "x"}, "engage": {"profiles_sync": {"url": "sqlite:///x.db"}}}
CONFIG = Config.model_validate(GIVEN)
TRAP = "from pathlib import Path\nPath('trap').touch()\nraise SystemExit(7)\n"


def test_a_child_process_imports_nothing_of_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("orjson", "pickle", "syncer", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    process = ChildProcess("nothing", CONFIG, "ann@example.com")
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert process.wait(30) == 1
    assert capfd.readouterr().err == "there is no process 'nothing'\n"
    assert not (tmp_path / "trap").exists()
    # Who is resynced is told by another way: everybody may see the list of processes.
    assert shown[1:] in ([b"-P", b"-m", b"syncer.daemon", b"nothing", b""], [])


@pytest.mark.parametrize("began", [True, False])
def test_a_child_that_reports_no_more_is_killed(
    began: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "BEAT", 0.1)
    monkeypatch.setattr(child, "MISSED_FIRST", 2 if not began else 600)
    process = ChildProcess("run", CONFIG)
    if began:
        reports = process.reports()
        assert next(reports) == {}
        os.kill(process.pid, signal.SIGSTOP)
        assert list(reports) == []
    else:
        os.kill(process.pid, signal.SIGSTOP)
        assert list(process.reports()) == []
    assert process.how_it_ended(process.wait(5)) == "its process hung, and was killed"


def test_reports_that_come_late_are_a_sign_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "BEAT", 0.2)
    process = ChildProcess("run", CONFIG)
    process._process.kill()
    assert process._process.stdout is not None
    reading, writing = os.pipe()
    os.dup2(reading, process._process.stdout.fileno())
    os.close(reading)

    def report() -> None:
        for _ in range(5):
            time.sleep(0.45)
            os.write(writing, b"{}\n")
        os.close(writing)

    late = threading.Thread(target=report)
    late.start()
    assert len(list(process.reports())) == 5
    assert not process.hung
    late.join()
    process.wait(5)


def saying(text: bytes) -> ChildProcess:
    """A child of which this is what it wrote to its standard output."""
    process = ChildProcess("run", CONFIG)
    assert process._process.stdout is not None
    reading, writing = os.pipe()
    os.dup2(reading, process._process.stdout.fileno())
    os.close(reading)
    os.write(writing, text)
    os.close(writing)
    process._process.kill()
    return process


def test_only_reports_are_read() -> None:
    """A library may print something."""
    process = saying(b'{"a": null}\nWARNING: x\n5\n["a"]\n{"a": "b"}\n{"c": nul')
    assert list(process.reports()) == [{"a": None}, {"a": "b"}]
    process.wait(5)


@pytest.mark.parametrize(("text", "works"), [(b'{"delivery": null}\n', False), (b"{}\n", True)])
def test_a_child_works_when_all_its_parts_do(text: bytes, works: bool) -> None:
    child = saying(text)
    part = Supervisor().add("worker", Process(lambda: child))
    with pytest.raises(Died):
        part._work(part)
    assert part.works is works


def test_a_child_that_was_asked_to_end_did_not_die() -> None:
    part = Supervisor().add("worker", Process(lambda: saying(b"{}\n")))

    def start() -> ChildProcess:
        part.ask_to_end()
        return saying(b"{}\n")

    Process(start)(part)


def test_a_child_in_which_a_part_hangs_is_killed() -> None:
    """Only a new process helps against that."""
    child = saying(b'{"delivery": null}\n{}\n{"delivery": "it hangs: it has not moved for 40 s"}\n')
    part = Supervisor().add("worker", Process(lambda: child))
    with pytest.raises(Died) as died:
        part._work(part)
    assert str(died.value) == (
        "its process hung, and was killed: delivery: it hangs: it has not moved for 40 s"
    )


def test_a_child_of_another_version_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings have a section that is not there any more, for instance."""

    class Newer(Config):
        pass

    settings = sys.modules[Config.__module__]
    Newer.__module__, Newer.__qualname__ = Config.__module__, "Newer"
    monkeypatch.setattr(settings, "Newer", Newer, raising=False)
    process = ChildProcess("worker", Newer.model_validate(GIVEN))
    said = "another version of the program was installed while the daemon runs: restart the daemon"
    assert list(process.reports()) == [{"worker": said}]
    assert process.wait(30) == 1
