"""Each command prints the JSON document that docs/reference/json.md describes, no more and no less.

One story makes them all: a warehouse that breaks, calls, a customer that Amberflo refuses, one that
somebody changes there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from state.db.install import Plan, write_plan
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.public_api import PublicApiSandbox, listed_by, running
from tests.support.daemon import daemon
from tests.support.events import sign
from tests.support.installation import Installation
from tests.support.processes import wait_until
from tests.support.reference import Document, Documents, page

TOKEN, SPACE = "sgp_token", "9aQ1Lj62S4bomZKLF4DPqW"
#: What no story makes: how far a run is, for a moment; a history that was edited; what lasts
#: while something does not work.
UNSEEN = {"Progress", "Broken", "Problem"}


@dataclass
class Story:
    """An installation whose every document is compared with the page. Its customers: of one
    Amberflo has something before us, one it refuses, one somebody changes there, one is erased,
    and the deletion of one waits."""

    installation: Installation
    documents: Documents
    public_api: str
    before: str
    refused: str
    changed: str
    erased: str
    deleted: str

    def prints(self, heading: str, *command: str, exit_code: int = 0) -> Any:
        """Run a command with `--json`; its document must be the one under the heading."""
        document = self.installation.json(*command, exit_code=exit_code)
        wrong = self.documents.wrong(heading, document)
        assert not wrong, f"syncer {' '.join(command)}\n" + "\n".join(wrong)
        return document

    def write_at_amberflo(self, customer_id: str, **traits: object) -> None:
        """Somebody else writes a customer there."""
        record = {"customerId": customer_id, "customerName": customer_id, "traits": traits}
        self.installation.amberflo.customers[customer_id] = record

    def lose_rows(self, key: str) -> None:
        """The warehouse loses all rows of a trait."""
        with closing(sqlite3.connect(self.installation.folder / "engage.db")) as db, db:
            db.execute("DELETE FROM user_traits WHERE name = ?", (key,))


@pytest.fixture
def story(installation: Installation, engage: EngageSandbox) -> Iterator[Story]:
    engage.fill(200)
    space = PublicApiSandbox(TOKEN, SPACE, per_minute={})
    space.listed = listed_by(engage)
    customers = [
        customer.customer_id for customer in engage.expected() if customer.traits.get("vip") is True
    ]
    with running(space) as url:
        public_api = (
            f'[engage.public_api]\ntoken = "{TOKEN}"\nspace_id = "{SPACE}"\nurl = "{url}"\n'
        )
        installation.configure(more=public_api)
        yield Story(installation, Documents(page("json.md")), public_api, *customers[:5])


def test_every_document_is_on_the_page(story: Story) -> None:
    _look_before_the_first_run(story)
    _run(story)
    _audit(story)
    _call(story)
    story.prints("syncer forget", "forget", story.erased, "--yes")
    story.prints("syncer forget", "forget", story.erased, "--undo")
    story.prints("syncer traits release", "traits", "release", "big_spender", "--yes")
    story.prints("syncer traits", "traits")
    story.prints("syncer audit compact", "audit", "compact")
    _go_back(story)
    assert story.documents.unseen() == UNSEEN


def _look_before_the_first_run(story: Story) -> None:
    story.prints("syncer config show", "config", "show")
    story.prints("syncer check", "check")
    story.prints("syncer plan", "plan", "--customers", "1000", "--events", "10")
    story.write_at_amberflo(story.before, vip="perhaps")
    story.prints("syncer diff", "diff", "--customers", "--amberflo")
    story.write_at_amberflo(story.changed, Vip=True)
    keys = f'{story.public_api}[passthrough]\nwrite_keys = ["key-of-a-page"]\n'
    story.installation.configure(more=keys)
    assert story.prints("syncer adopt", "adopt", "--customers", exit_code=1)["meters"]
    story.installation.configure(more=story.public_api)
    story.prints("syncer diff", "sync", "--dry-run")
    story.prints("syncer status", "status")


def _run(story: Story) -> None:
    story.installation.amberflo.odd = {story.refused: "PUT 400"}
    story.prints("syncer sync", "sync", exit_code=1)
    assert story.prints("syncer audit undelivered", "audit", "undelivered")["changes"]
    story.prints("syncer why", "why", story.refused, "vip")
    story.installation.amberflo.odd = {}
    story.lose_rows("vip")
    story.prints("syncer sync", "sync", "--full", exit_code=3)
    assert story.prints("syncer runs show", "runs", "show", "2")["holds"]
    assert story.prints("syncer runs held", "runs", "held", "2")["changes"]
    assert story.prints("syncer why", "why", story.before, "vip")["holds"]
    assert story.prints("syncer status", "status")["held"]
    story.prints(
        "syncer runs reject", "runs", "reject", "2", "--yes", "--by", "Ada", "--because", "a test"
    )
    story.prints("syncer runs reject", "runs", "lift", "2")
    story.prints("syncer sync", "sync", "--full", exit_code=3)
    assert story.prints("syncer sync", "runs", "approve", "3", "--yes")["mismatches"]
    story.prints("syncer sync", "resync", "--customer", story.changed, "--yes")
    story.prints("syncer runs", "runs")
    story.prints("syncer runs", "runs", "list", "--limit", "1")
    story.prints("syncer traits", "traits", "list")
    story.write_at_amberflo(story.changed, vip="perhaps")
    assert story.prints("syncer verify", "verify", exit_code=1)["drifted"]
    story.prints("syncer verify", "verify", "--repair")


def _audit(story: Story) -> None:
    by_now, before_all = "2999-01-01", "2001-01-01"
    folder = str(story.installation.folder / "export")
    story.prints("syncer audit customer", "audit", "customer", story.before)
    story.prints("syncer audit customer", "audit", "customer", story.before, "--at", by_now)
    story.prints("syncer audit audience", "audit", "audience", "vip")
    story.prints("syncer audit audience --at", "audit", "audience", "vip", "--at-run", "1")
    story.prints("syncer audit at", "audit", "at", by_now)
    story.prints("syncer audit run", "audit", "run", "1")
    story.prints("syncer audit seal", "audit", "seal")
    story.prints("syncer audit seal", "audit", "seal", "--export", folder)
    unknown = "A moment that the history does not know"
    ask = ("audit", "customer", story.before, "--at", before_all)
    story.prints(unknown, *ask, exit_code=2)


def _go_back(story: Story) -> None:
    folder = story.installation.folder
    file, copy = str(folder / "backup"), f"sqlite:///{folder / 'copy.db'}"
    story.prints("syncer state backup", "state", "backup", file)
    story.prints("syncer state copy", "state", "copy", "--to", copy)
    assert story.prints("syncer state restore", "state", "restore", file, "--yes")["kept"]
    assert story.prints("syncer state check", "state", "check")["restored_from"]
    write_plan(folder / "syncer.db", Plan([], []))
    story.prints("syncer state restore --finish", "state", "restore", "--finish")


def _call(story: Story) -> None:
    """A daemon, calls to it, and what they lead to."""

    def alerts() -> set[str]:
        status = story.prints("syncer status", "status")
        assert status["daemon"]
        return {alert["name"] for alert in status["alerts"]}

    with daemon(story.installation, more=story.public_api, deletes_per_day=0) as receiver:
        value = {"value": "not a number"}
        receiver.send("track", {"userId": story.before, "event": "ApiCalls", "properties": value})
        delete = orjson.dumps({"type": "delete", "userId": story.deleted})
        receiver.send("webhook", delete, x_signature=sign(delete))
        wait_until(lambda: {"calls", "deletes"} <= alerts(), what="the alerts")
        failed = story.prints("syncer failures", "failures", "--customer", story.before)
        assert [(failure["event"], failure["retryable"]) for failure in failed] == [
            ("ApiCalls", False)
        ]
        table = story.installation.run("failures").stdout
        assert story.before in table
        assert "ApiCalls" in table
    assert story.prints("syncer forget --pending", "forget", "--pending", "--yes")["pending"]
    story.prints("syncer failures", "failures", "list", "--limit", "5")
    story.prints("syncer failures retry", "failures", "retry", "--all")
    story.prints("syncer failures discard", "failures", "discard", "--all")


def test_the_page_is_read() -> None:
    documents = Documents(
        "# Page\n\n## `syncer a`\nPrints: list of [A](#a)\n\n### A\n"
        "| key | type | what |\n|---|---|---|\n"
        "| `x` | map of number | |\n| `y` | time or null, with `--y` | |\n\n### B\n"
        "Everything of [A](#a), and\n\n| key | type | what |\n|---|---|---|\n| `z` | JSON | |\n"
    )
    moment = "2026-11-24T06:51:04.123Z"
    assert documents.wrong("syncer a", [{"x": {"k": 1}, "y": moment}, {"x": {}}]) == []
    assert documents.unseen() == {"B"}
    assert documents.wrong("syncer a", [{"x": {"k": "1"}, "z": 1}]) == [
        "[0] has z, which is not on the page",
        "[0].x.k is no number: '1'",
    ]
    assert documents.wrong("syncer a", [{"y": "now"}]) == [
        "[0] has no x",
        "[0].y is no time: 'now'",
    ]
    assert documents.wrong("syncer a", {}) == [" is no list of A: {}"]
    fields = {"x": "map of number", "y": "time or null", "z": "JSON"}
    assert documents.shapes["B"] == Document(fields, frozenset({"y"}))
