"""Each command prints the JSON document that docs/reference/json.md describes, no more and no less.

One story makes them all: the sandbox, a warehouse that breaks, calls, a customer that Amberflo
refuses, one that somebody changes there.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncer.cli import main
from tests.support.reference import Document, Documents, page

#: Customers of the sandbox: what Amberflo has of one before us, refuses of one, loses of one; one
#: that is erased; one whose deletion waits.
BEFORE, REFUSED, CHANGED, ERASED, DELETED = "u000196", "u000010", "u000020", "u000030", "u000040"
SECRET = "a-webhook-secret"
#: Seconds that a process has to start, and the daemon to see something.
PATIENCE = 60.0


@dataclass
class Story:
    """A sandbox and its config; what every command printed is held against the page."""

    folder: Path
    config: dict[str, Any]
    documents: Documents = field(default_factory=lambda: Documents(page("json.md")))

    def says(self, heading: str, *command: str, exit_code: int = 0) -> Any:
        """Run a command with `--json`; its document must be the one under the heading."""
        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["syncer", *command, "--json"]
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == exit_code, (command, out.getvalue(), err.getvalue())
        document = orjson.loads(out.getvalue())
        wrong = self.documents.wrong(heading, document)
        assert not wrong, f"syncer {' '.join(command)}\n" + "\n".join(wrong)
        return document

    def control(self, what: str, body: object) -> None:
        """Tell the stand-in for Amberflo what to do."""
        url = self.config["amberflo"]["ingest_url"].removesuffix("/ingest")
        _post(f"{url}/_sandbox/{what}", orjson.dumps(body))

    def at_amberflo(self, customer_id: str, **traits: object) -> None:
        """Somebody else writes a customer there."""
        self.control("customers", [{"customerId": customer_id, "traits": traits}])

    def warehouse(self, statement: str) -> None:
        with closing(sqlite3.connect(self.folder / "engage.db")) as connection, connection:
            connection.execute(statement)


def _post(url: str, body: bytes, headers: dict[str, str] | None = None) -> None:
    request = urllib.request.Request(url, data=body, headers=headers or {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()


def _wait_until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.1)


@contextmanager
def _process(*arguments: str, **how: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-P", "-m", "syncer", *arguments], text=True, **how)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("SYNCER_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("SYNCER_PASSTHROUGH__WEBHOOK_SECRET", SECRET)
    monkeypatch.setenv("SYNCER_PASSTHROUGH__DELETES_PER_DAY", "0")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    config, sandbox = tmp_path / "config.toml", ["sandbox", "--users", "200", "--folder"]
    with (
        config.open("w", encoding="utf-8") as stdout,
        _process(*sandbox, str(tmp_path), stdout=stdout, stderr=subprocess.PIPE) as serving,
    ):
        assert serving.stderr is not None
        assert "serves" in serving.stderr.readline()
        yield Story(tmp_path, tomllib.loads(config.read_text(encoding="utf-8")))
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_every_document_is_on_the_page(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    says = story.says
    _before_the_first_run(story)
    _runs(story)
    _audits(story)
    _calls(story, monkeypatch)
    says("syncer forget", "forget", ERASED, "--yes")
    says("syncer forget", "forget", ERASED, "--undo")
    says("syncer traits release", "traits", "release", "big_spender", "--yes")
    says("syncer traits", "traits")
    says("syncer audit compact", "audit", "compact")
    assert story.documents.unseen() == {*UNSEEN}


#: What no story makes: how far a run is, for a moment; a history that was edited.
UNSEEN = ("Progress", "Broken")


def _before_the_first_run(story: Story) -> None:
    says = story.says
    says("syncer check", "check")
    story.at_amberflo(BEFORE, vip="perhaps")
    says("syncer diff", "diff", "--customers", "--amberflo")
    says("syncer diff", "sync", "--dry-run")
    says("syncer status", "status")


def _runs(story: Story) -> None:
    says = story.says
    story.control("odd", {REFUSED: "PUT 400"})
    says("syncer sync", "sync", exit_code=1)
    assert says("syncer audit undelivered", "audit", "undelivered")["changes"]
    story.control("odd", {})
    story.warehouse("DELETE FROM user_traits WHERE name = 'vip'")
    says("syncer sync", "sync", "--full", exit_code=3)
    shown = says("syncer runs show", "runs", "show", "2")
    assert shown["holds"]
    assert says("syncer status", "status")["held"]
    says("syncer runs reject", "runs", "reject", "2", "--by", "Ada", "--because", "a test")
    says("syncer runs reject", "runs", "lift", "2")
    says("syncer sync", "sync", "--full", exit_code=3)
    report = says("syncer sync", "runs", "approve", "3")
    assert report["mismatches"]
    says("syncer sync", "resync", "--customer", CHANGED, "--yes")
    says("syncer runs", "runs")
    says("syncer runs", "runs", "list", "--limit", "1")
    says("syncer traits", "traits", "list")
    story.at_amberflo(CHANGED, vip="perhaps")
    verified = says("syncer verify", "verify", exit_code=1)
    assert verified["drifted"]
    says("syncer verify", "verify", "--repair")


def _audits(story: Story) -> None:
    says = story.says
    now = "2999-01-01"
    says("syncer audit customer", "audit", "customer", BEFORE)
    says("syncer audit customer", "audit", "customer", BEFORE, "--at", now)
    says("syncer audit audience", "audit", "audience", "vip")
    says("syncer audit audience --at", "audit", "audience", "vip", "--at-run", "1")
    says("syncer audit at", "audit", "at", now)
    says("syncer audit run", "audit", "run", "1")
    says("syncer audit undelivered", "audit", "undelivered")
    says("syncer audit seal", "audit", "seal")
    says("syncer audit seal", "audit", "seal", "--export", str(story.folder / "export"))
    unknown = "A moment that the history does not know"
    says(unknown, "audit", "customer", BEFORE, "--at", "2001-01-01", exit_code=2)


def _calls(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon, calls to it, and what they lead to."""
    says, port = story.says, _free_port()
    monkeypatch.setenv("SYNCER_PASSTHROUGH__LISTEN", f"127.0.0.1:{port}")
    (key,) = story.config["passthrough"]["write_keys"]
    basic = {"authorization": f"Basic {b64encode(f'{key}:'.encode()).decode()}"}
    with _process("daemon", stderr=subprocess.PIPE, env=dict(os.environ)) as daemon:
        assert daemon.stderr is not None
        assert any("receiving on" in line for line in iter(daemon.stderr.readline, ""))
        track = {"userId": BEFORE, "event": "ApiCalls", "properties": {"value": "no number"}}
        _post(f"http://127.0.0.1:{port}/v1/track", orjson.dumps(track), basic)
        delete = orjson.dumps({"type": "delete", "userId": DELETED})
        signature = hmac.new(SECRET.encode(), delete, hashlib.sha1).hexdigest()
        webhook = f"http://127.0.0.1:{port}/v1/webhook?key={key}"
        _post(webhook, delete, {"x-signature": signature})
        _wait_until(lambda: says("syncer status", "status")["alerts"], "no alert")
        status = says("syncer status", "status")
        assert status["daemon"]
        assert says("syncer failures", "failures")
        _wait_until(lambda: _pending(story), "no deletion waits")
    says("syncer forget --pending", "forget", "--pending", "--yes")
    says("syncer failures", "failures", "list", "--limit", "5")
    says("syncer failures retry", "failures", "retry", "--all")
    says("syncer failures discard", "failures", "discard", "--all")


def _pending(story: Story) -> bool:
    alerts = story.says("syncer status", "status")["alerts"]
    return any(alert["name"] == "deletes" for alert in alerts)


def test_the_page_is_read() -> None:
    documents = Documents(
        "# Page\n\n## `syncer a`\nPrints: list of [A](#a)\n\n### A\n"
        "| key | type | what |\n|---|---|---|\n"
        "| `x` | map of number | |\n| `y` | time or null, with `--y` | |\n\n### B\n"
        "Everything of [A](#a), and\n\n| key | type | what |\n|---|---|---|\n| `z` | JSON | |\n"
    )
    time_ = "2026-11-24T06:51:04.123Z"
    assert documents.wrong("syncer a", [{"x": {"k": 1}, "y": time_}, {"x": {}}]) == []
    assert documents.unseen() == {"B"}
    assert documents.wrong("syncer a", [{"x": {"k": "1"}, "z": 1}]) == [
        "[0] has z, which is not on the page",
        "[0].x.k is no number: '1'",
    ]
    assert documents.wrong("syncer a", [{"y": "now"}]) == [
        "[0] has no x",
        "[0].y is no time: 'now'",
    ]
    assert isinstance(documents.shapes["B"], Document)
    assert sorted(documents.shapes["B"].fields) == ["x", "y", "z"]
    assert re.search("is no list", documents.wrong("syncer a", {})[0])
