"""What the audit cannot answer, and how much it tells at once."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from state import runs, snapshot
from state.db.database import Database
from state.history.record import ChangeRow, add_changes
from state.snapshot import CustomerRow, TraitRow
from syncer import cli
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox
from tests.e2e.audit.helpers import rows_of
from tests.support.installation import API_KEY, Installation


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["customer", "nobody"], 1, "the customer 'nobody' is unknown"),
        (["customer", "a\udcff"], 2, "the text is not UTF-8"),
        (["audience", "no such"], 1, "with the key 'no such' was ever synced"),
        (["run", "99"], 1, "there is no run 99; `syncer runs` lists them"),
        (["run", "0"], 2, "'0' is no run: write its number, or last"),
        (["run", str(2**63)], 2, "is no run"),
        (["run", "1", "--key", "no such"], 1, "with the key 'no such' was ever synced"),
        (["audience", "{trait}", "--at-run", "99"], 1, "there is no run 99"),
        (["audience", "{trait}", "--at-run", "4"], 1, "run 4 is failed: it wrote nothing"),
        (
            ["audience", "{trait}", "--at-run", "1", "--at", "2026-01-01"],
            2,
            "use either --at or --at-run",
        ),
        (
            ["audience", "{trait}", "--at", "2026-01-01", "--since", "2026-01-01"],
            2,
            "--at is one moment: use it without --since and --until",
        ),
        (
            ["customer", "{customer}", "--at-run", "1", "--until", "2026-01-01"],
            2,
            "--at-run is one moment: use it without --since and --until",
        ),
        (["customer", "{customer}", "--key", "no such"], 1, "was ever synced"),
        (["audience", "{trait}", "--limit", "0"], 2, "0 is not in the range"),
    ],
)
def test_what_cannot_be_answered_is_said_in_one_line(
    told: tuple[Installation, str, str], arguments: list[str], code: int, said: str
) -> None:
    installation, trait, customer_id = told
    arguments = [argument.format(trait=trait, customer=customer_id) for argument in arguments]
    for form in ([], ["--json"], ["--csv"]):
        result = installation.run("audit", *arguments, *form, exit_code=code)
        assert result.stdout == ""
        lines = result.stderr.splitlines()
        assert said in lines[-1]
        assert code == 2 or len(lines) == 1


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, str, str]]:
    """An installation with three runs and a fourth that failed, an audience and a customer."""
    folder = tmp_path_factory.mktemp("told")
    amberflo = AmberfloSandbox(API_KEY)
    with running(amberflo) as url:
        installation = Installation(folder, amberflo, url)
        installation.configure()
        engage = EngageSandbox(
            installation.source_url, seed=7, clock=datetime.now(UTC) - timedelta(days=30)
        )
        with closing(engage):
            engage.fill(30, 2)
            for _ in range(3):
                installation.run("sync")
                engage.evolve(hours=3, fraction=0.2)
        with (
            closing(Database.open(f"sqlite:///{folder / 'syncer.db'}")) as database,
            database.write() as connection,
        ):
            number = runs.start(connection, "incremental", 1000, "{}")
            runs.set_values(connection, number, {"state": runs.FAILED})
        document = installation.json("audit", "run", "1")["changes"][0]
        yield installation, document["key"], document["customer_id"]


def test_nothing_to_tell(installation: Installation) -> None:
    """Before the first run there is no state, and asking makes none."""
    assert installation.json("audit", "undelivered") == {"count": 0, "changes": []}
    refused = installation.run("audit", "at", "2026-11-01", "--json", exit_code=2)
    assert orjson.loads(refused.stdout) == {"error": "nothing is recorded yet", "known_since": None}
    assert refused.stderr == "error: nothing is recorded yet\n"
    assert rows_of(installation, "audit", "undelivered") == []
    assert (
        "0 changes that Amberflo has not acknowledged"
        in installation.run("audit", "undelivered").stdout
    )
    installation.run("audit", "audience", "vip", exit_code=1)
    assert list(installation.folder.glob("syncer*.db")) == []


def test_what_amberflo_refused_is_undelivered_until_it_takes_it(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(30, 3)
    wanted = {customer.customer_id: customer for customer in engage.expected()}
    bad = next(iter(wanted))
    record = {"customerId": bad, "customerName": bad, "strange": 1, "traits": {}}
    installation.amberflo.customers[bad] = record
    installation.run("sync", exit_code=1)
    document = installation.json("audit", "undelivered")
    assert document["count"] == len(document["changes"]) > 0
    for change in document["changes"]:
        assert (change["customer_id"], change["refused"], change["delivered_at"]) == (
            bad,
            True,
            None,
        )
    assert {change["trait"]: change["after"] for change in document["changes"]} == wanted[
        bad
    ].traits
    rows = rows_of(installation, "audit", "undelivered")
    assert [(row["trait"], row["refused"]) for row in rows] == [
        (change["trait"], "True") for change in document["changes"]
    ]
    if document["count"] > 1:
        said = installation.run("audit", "undelivered", "--limit", "1").stdout
        assert f"and {document['count'] - 1} more" in said
    del installation.amberflo.customers[bad]["strange"]
    installation.json("failures", "retry", "--all")
    assert installation.json("audit", "undelivered") == {"count": 0, "changes": []}


def test_a_table_ends_and_says_how_many_more(told: tuple[Installation, str, str]) -> None:
    installation, trait, _ = told
    run = installation.json("audit", "run", "1")
    count = len(run["changes"])
    said = installation.run("audit", "run", "1", "--limit", "3").stdout
    assert f"and {count - 3} more: --limit shows more, --csv and --json all" in said
    assert len(re.findall("^(?:│ )?u0", said, re.MULTILINE)) == 3
    assert "more" not in installation.run("audit", "run", "1", "--limit", str(count)).stdout
    assert installation.json("audit", "run", "1", "--limit", "3")["changes"] == run["changes"][:3]
    assert len(rows_of(installation, "audit", "run", "1", "--limit", "3")) == 3

    whole = installation.json("audit", "audience", trait)
    part = installation.json("audit", "audience", trait, "--limit", "2")
    for side in ("entered", "exited"):
        assert part[side] == whole[side][-2:]
    total = len(whole["entered"]) + len(whole["exited"])
    said = installation.run("audit", "audience", trait, "--limit", "2").stdout
    assert f"and {total - 2} more" in said
    members = installation.json("audit", "audience", trait, "--at-run", "3")
    part = installation.json("audit", "audience", trait, "--at-run", "3", "--limit", "1")
    assert part == {**members, "members": members["members"][:1]}
    said = installation.run("audit", "audience", trait, "--at-run", "3", "--limit", "1").stdout
    assert f"and {members['count'] - 1} more" in said


def test_memory_does_not_grow_with_the_answer(installation: Installation, tmp_path: Path) -> None:
    """10,000 changes are 7 MB as rows, and more as JSON."""
    ids = [f"user_{number:06}" for number in range(10_000)]
    with (
        closing(Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")) as database,
        database.write() as connection,
    ):
        run = runs.start(connection, "initial", 1000, "{}")
        runs.set_values(connection, run, {"committed_at": 1000})
        states = [CustomerRow(id_, "{}", None, None, None, None) for id_ in ids]
        snapshot.insert_customers(connection, states, 1000)
        snapshot.put_traits(connection, [TraitRow("vip", "vip", "audience", len(ids))])
        changes = [ChangeRow(id_, "vip", "vip", None, "true", 7) for id_ in ids]
        add_changes(connection, changes, run, 1000)
    for question in (
        ["run", str(run), "--json"],
        ["audience", "vip", "--json"],
        ["audience", "vip", "--csv"],
        ["audience", "vip", "--at-run", str(run), "--json"],
        ["undelivered", "--json"],
    ):
        with (tmp_path / "out").open("w+") as out:
            tracemalloc.start()
            try:
                with redirect_stdout(out):
                    arguments = ["audit", *question, "--config", str(installation.config)]
                    cli.cli.main(arguments, standalone_mode=False)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            out.seek(0)
            assert sum("user_" in line for line in out) == len(ids)
        assert peak < 3_000_000, question
