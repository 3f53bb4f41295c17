"""The child processes of the daemon: what they import, and what the list of processes shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from syncer.config import Config
from syncer.process.child import ChildProcess

TRAP = "from pathlib import Path\nPath('trap').touch()\nraise SystemExit(7)\n"


def test_a_child_process_imports_nothing_of_the_folder_it_is_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("orjson", "pickle", "syncer", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate(
        {"amberflo": {"api_key": "x"}, "engage": {"profiles_sync": {"url": "sqlite:///x.db"}}}
    )
    process = ChildProcess("nothing", config, "ann@example.com")
    shown = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    assert process.wait(30) == 1
    assert capfd.readouterr().err == "there is no process 'nothing'\n"
    assert not (tmp_path / "trap").exists()
    # Who is resynced is told by another way: everybody may see the list of processes.
    assert shown[1:] in ([b"-P", b"-m", b"syncer.daemon", b"nothing", b""], [])
