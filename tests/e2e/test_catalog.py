"""The Public API says what an audience is and when its exits count: the real program, a real
source, real HTTP to both stand-ins."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from state import snapshot
from state.db.database import Database
from state.snapshot import TraitRow
from syncer.sandbox.engage import REVENUE, EngageSandbox, Evolution
from syncer.sandbox.environment import environment
from syncer.sandbox.faults import Faults
from syncer.sandbox.public_api import Listed, PublicApiSandbox, listed_by, running
from tests.support.installation import Installation, expected_records

TOKEN, SPACE = "sgp_token", "9aQ1Lj62S4bomZKLF4DPqW"
Records = dict[str, dict[str, Any]]


@pytest.fixture
def space() -> PublicApiSandbox:
    return PublicApiSandbox(TOKEN, SPACE, per_minute={})


@pytest.fixture
def url(installation: Installation, space: PublicApiSandbox) -> Iterator[str]:
    """The Public API, and an installation that asks it."""
    with running(space) as url:
        installation.configure(more=section(url))
        yield url


def section(url: str, token: str = TOKEN, **more: Any) -> str:
    lines = [f'token = "{token}"', f'space_id = "{SPACE}"', f'url = "{url}"']
    lines += [f"{key} = {value}" for key, value in more.items()]
    return "\n".join(["[engage.public_api]", *lines, ""])


@pytest.fixture
def synced(
    installation: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> Installation:
    """After the first run over 300 users and 4 audiences, all of them live."""
    engage.fill(300, 4)
    space.listed = listed_by(engage)
    run = installation.json("sync")
    assert (run["state"], run["waiting"], run["mismatches"]) == ("done", {}, [])
    assert installation.holds() == expected_records(engage)
    engage.observe()
    installation.amberflo.reset_stats()
    return installation


def set_status(space: PublicApiSandbox, status: str, *keys: str, **more: Any) -> None:
    """Give listed audiences (all, where none is named) another status."""
    space.listed = [
        replace(one, status=status, **more)
        if one.key in keys or (not keys and one.kind == "audience")
        else one
        for one in space.listed
    ]


def without_exits(engage: EngageSandbox, before: Records, *keys: str) -> Records:
    """What Amberflo must hold while nobody leaves these audiences."""
    wanted = expected_records(engage)
    for customer_id, record in before.items():
        for key in keys:
            if record["traits"].get(key) is True:
                wanted[customer_id]["traits"][key] = True
    return wanted


def leaving(wanted: Records, settled: Records) -> set[str]:
    """Who differs between the two."""
    return {one for one in wanted if wanted[one] != settled.get(one)}


def check_sums(run: Any) -> None:
    for row in run["traits"]:
        parts = ("unchanged", "entered", "exited", "changed", "skipped")
        assert row["pulled"] == sum(row[part] for part in parts), row
        assert row["waiting"] <= row["held"] <= row["entered"] + row["exited"] + row["changed"]
    assert run["due"] == run["delivered"] + run["failed"] + run["held"]


def share_pulled(installation: Installation, run: Any) -> float:
    """How much of what the first run pulled this one did."""
    return float(run["pulled"] / installation.json("runs")[-1]["pulled"])


def by_key(run: Any) -> dict[str, Any]:
    return {row["key"]: row for row in run["traits"]}


def busiest(engage: EngageSandbox, evolution: Evolution) -> str:
    """An audience that some left and some entered."""
    return next(
        key
        for key in engage.audiences
        if evolution.exited[key] >= 2 and evolution.entered[key] >= 2
    )


def known_traits(installation: Installation) -> dict[str, TraitRow]:
    url = f"sqlite:///{installation.folder / 'syncer.db'}"
    with closing(Database.peek(url)) as database, database.read() as connection:
        return {row.key: row for row in snapshot.traits(connection)}


# Exits that wait


def test_exits_wait_for_segment_and_come_with_the_next_run(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    """The next run is another process, and an incremental one, which by itself would not pull their
    rows again."""
    before = synced.holds()
    evolution = engage.evolve(fraction=0.2)
    key = busiest(engage, evolution)
    set_status(space, "Backfilling", key)

    looked = synced.run("diff", "--customers")
    assert f"would wait: {key}: {evolution.exited[key]} that left stay as they are" in looked.stderr
    assert looked.stdout.count(" (waiting)") == evolution.exited[key]

    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["state"], run["hold_reasons"]) == ("incremental", "done", {})
    assert list(run["waiting"]) == [key]
    assert "its status is Backfilling" in run["waiting"][key]
    row = by_key(run)[key]
    assert (row["entered"], row["exited"]) == (evolution.entered[key], evolution.exited[key])
    assert row["held"] == row["waiting"] == run["held"] == evolution.exited[key]
    wanted = without_exits(engage, before, key)
    assert synced.holds() == wanted
    assert synced.json("status")["held"] == []
    number = str(run["run"])
    assert synced.json("runs", "show", number)["traits"] == run["traits"]
    assert f"{key}: {row['waiting']} wait for Segment" in synced.run("runs", "show", number).stdout
    # Who only left it is not written at all.
    waits = leaving(wanted, expected_records(engage))
    assert len(waits) == evolution.exited[key]
    alone = {one for one in waits if before[one] == wanted[one]}
    assert alone
    assert set(synced.puts()) == evolution.changed - alone
    engage.observe()

    # Again, still not live: nothing is due, nothing is lost, all is compared.
    synced.amberflo.reset_stats()
    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["due"], run["held"]) == ("incremental", len(waits), len(waits))
    assert share_pulled(synced, run) > 0.9
    assert synced.puts() == {}
    assert synced.holds() == wanted

    # Live: they leave, each with one PUT.
    set_status(space, "Live", key)
    child = synced.start("sync", "--json")
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    run = orjson.loads(out)
    check_sums(run)
    assert (run["kind"], run["waiting"], run["held"]) == ("incremental", {}, 0)
    assert synced.puts() == dict.fromkeys(waits, 1)
    assert synced.holds() == expected_records(engage)
    history = synced.json("audit", "audience", key)
    assert {row["customer_id"] for row in history["exited"]} == waits

    # Now an incremental run pulls a part again.
    run = synced.json("sync")
    assert (run["kind"], run["due"]) == ("incremental", 0)
    assert share_pulled(synced, run) < 0.5


def test_rows_that_vanished_wait_too(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    """Only a full compare sees them; the next plain run is one while they wait. Of a computed
    trait it is the lost value that waits."""
    before = synced.holds()
    engage.evolve(fraction=0.001, vanish=40)
    set_status(space, "Locked")
    space.listed = [replace(one, status="Locked") for one in space.listed]
    run = synced.json("sync", "--full")
    check_sums(run)
    assert (run["kind"], run["state"]) == ("reconcile", "done")
    assert len(run["waiting"]) > 2
    assert any(key.startswith("total_revenue_") for key in run["waiting"])
    wanted = expected_records(engage)
    for customer_id, record in before.items():
        for trait, value in record["traits"].items():
            now = wanted[customer_id]["traits"].get(trait)
            if now is None or (value is True and now is False):
                wanted[customer_id]["traits"][trait] = value
    assert synced.holds() == wanted
    engage.observe()
    set_status(space, "Live")
    space.listed = [replace(one, status="Live") for one in space.listed]
    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["waiting"]) == ("incremental", {})
    assert synced.holds() == expected_records(engage)


def test_a_run_that_breaks_off_forgets_nothing_that_waits(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    evolution = engage.evolve(fraction=0.2)
    key = busiest(engage, evolution)
    set_status(space, "Disabled", key, enabled=False)
    waits = by_key(synced.json("sync"))[key]["waiting"]
    engage.observe()
    set_status(space, "Live", key, enabled=True)
    with closing(sqlite3.connect(synced.folder / "engage.db")) as source:
        source.execute("ALTER TABLE user_traits RENAME TO away")
        synced.run("sync", exit_code=1)
        source.execute("ALTER TABLE away RENAME TO user_traits")
    run = synced.json("sync")
    assert by_key(run)[key]["exited"] == waits > 0
    assert synced.holds() == expected_records(engage)


def test_a_mass_exit_waits_before_the_guard_looks_at_it(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """While it is computed anew nobody has to decide; when it is live, somebody has."""
    synced.configure(more=section(url) + "[guard]\nmin_exits = 20\n")
    before = synced.holds()
    key = engage.audiences[0]
    with closing(sqlite3.connect(synced.folder / "engage.db")) as source:
        source.execute("UPDATE user_traits SET value = 'false' WHERE name = ?", (key,))
        source.commit()
    set_status(space, "Computing", key)
    run = synced.json("sync", "--full")
    check_sums(run)
    assert (run["state"], list(run["waiting"])) == ("done", [key])
    assert by_key(run)[key]["waiting"] > 50
    assert synced.holds() == before
    synced.run("runs", "approve", "--yes", str(run["run"]), exit_code=1)

    set_status(space, "Live", key)
    run = synced.json("sync", exit_code=3)
    check_sums(run)
    assert (run["state"], list(run["hold_reasons"]), run["waiting"]) == ("held", [key], {})
    assert synced.holds() == before
    assert [row["key"] for row in synced.json("status")["held"]] == [key]
    run = synced.json("runs", "approve", "--yes", str(run["run"]))
    assert run["state"] == "done"
    assert not any(record["traits"].get(key) for record in synced.holds().values())


def test_an_approval_is_not_for_what_waits(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """A run may hold one audience and let another one wait: the word is for the first alone."""
    synced.configure(more=section(url) + "[guard]\nmin_exits = 20\n")
    held, waits = engage.audiences[:2]
    with closing(sqlite3.connect(synced.folder / "engage.db")) as source:
        source.execute("UPDATE user_traits SET value='false' WHERE name IN (?,?)", (held, waits))
        source.commit()
    set_status(space, "Locked", waits)
    run = synced.json("sync", "--full", exit_code=3)
    assert (list(run["hold_reasons"]), list(run["waiting"])) == ([held], [waits])
    assert [row["key"] for row in synced.json("status")["held"]] == [held]
    set_status(space, "Live", waits)
    run = synced.json("runs", "approve", "--yes", str(run["run"]), exit_code=3)
    assert list(run["hold_reasons"]) == [waits]
    found = synced.holds().values()
    assert not any(record["traits"].get(held) for record in found)
    assert any(record["traits"].get(waits) for record in found)


# What is an audience


def test_a_custom_trait_is_no_audience(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    had = synced.holds()
    rows = custom_trait(synced, "has_pet")
    run = synced.json("sync", "--full")
    assert (run["state"], run["due"], "has_pet" in by_key(run)) == ("done", 0, False)
    assert synced.holds() == had
    left_out = "left out, as the Public API does not list it: has_pet"
    assert left_out in synced.run("diff").stderr
    # Somebody makes an audience of that key: rows of before count, though no watermark shows them.
    space.listed = [*space.listed, Listed("has_pet")]
    assert synced.json("sync")["kind"] == "reconcile"
    assert rows <= owners(synced) <= rows + 3, "some have two ids since they merged"
    assert synced.json("sync")["due"] == 0


def owners(installation: Installation) -> int:
    return sum(one["traits"].get("has_pet") is True for one in installation.holds().values())


def custom_trait(installation: Installation, key: str) -> int:
    """Give 50 customers a boolean trait long ago; gives how many customers that is."""
    with closing(sqlite3.connect(installation.folder / "engage.db")) as source:
        ids = [
            row[0]
            for row in source.execute(
                "SELECT canonical_segment_id FROM user_identifiers WHERE type = 'user_id'"
                " GROUP BY 1 HAVING count(*) = 1 ORDER BY 1 LIMIT 50"
            )
        ]
        at = "2026-01-01 00:00:00.000000"
        source.executemany(
            "INSERT INTO user_traits VALUES (?, ?, 'true', 1, ?, ?, ?)",
            [(one, key, at, at, at) for one in ids],
        )
        source.commit()
    return len(ids)


def test_without_the_section_all_stays_as_it_was(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(100, 3)
    custom_trait(installation, "has_pet")
    run = installation.json("sync")
    assert by_key(run)["has_pet"]["entered"] > 0
    assert (run["waiting"], run["mismatches"]) == ({}, [])


def test_the_section_alone_makes_the_next_run_compare_everything(
    installation: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    installation.configure()
    engage.fill(100, 3)
    installation.run("sync")
    engage.observe()
    space.listed = listed_by(engage)
    installation.configure(more=section(url))
    run = installation.json("sync")
    assert (run["kind"], run["state"], run["due"]) == ("reconcile", "done", 0)
    assert installation.json("sync")["kind"] == "incremental"


def test_an_audience_deleted_in_engage_is_held(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    """Its key stays on the profiles, true for ever (docs/facts/segment.md §3.4)."""
    before = synced.holds()
    evolution = engage.evolve(fraction=0.2)
    key = busiest(engage, evolution)
    members = sum(record["traits"].get(key) is True for record in before.values())
    space.listed = [one for one in space.listed if one.key != key]
    # A partial run infers nothing from rows that are not there.
    partial = synced.json("sync")
    check_sums(partial)
    assert partial["held"] == 0
    why = (
        "the Public API lists it no more: it was deleted in Engage, or never was an "
        f"audience or computed trait of users; it had {members:,} members"
    )
    for since in ("", "held since run 3: "):
        run = synced.json("sync", "--full", exit_code=3)
        check_sums(run)
        assert run["state"] == "held"
        assert run["hold_reasons"] == {key: since + why}
        assert {
            one: record["traits"][key]
            for one, record in synced.holds().items()
            if key in record["traits"]
        } == {
            one: record["traits"][key] for one, record in before.items() if key in record["traits"]
        }
    engage.observe()
    found = known_traits(synced)
    assert (found[key].status, found[key].size, found[key].name) == ("Unlisted", None, key)

    # With somebody's word its members leave, and nothing brings them back.
    run = synced.json("runs", "approve", "--yes", str(run["run"]))
    check_sums(run)
    assert run["state"] == "done"
    assert not any(record["traits"].get(key) for record in synced.holds().values())
    synced.amberflo.reset_stats()
    for arguments in (["sync"], ["sync", "--full"]):
        assert synced.json(*arguments)["due"] == 0
    assert synced.puts() == {}


def test_a_key_that_is_listed_again_is_compared_from_the_start(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    """Whatever made it go away for a run, an entry of that time is not lost."""
    listed = list(space.listed)
    evolution = engage.evolve(fraction=0.2)
    key = busiest(engage, evolution)
    space.listed = [one for one in listed if one.key != key]
    for _ in range(2):
        synced.run("sync")
        engage.observe()
        engage.evolve(hours=30, fraction=0.001)
    space.listed = listed
    # The run that finds it listed again is followed by one that compares all.
    for _ in range(2):
        synced.run("sync")
    assert synced.holds() == expected_records(engage)


# Where it cannot be read


@pytest.mark.parametrize("trouble", ["nobody there", "token", "pace", "no JSON"])
def test_without_the_public_api_who_enters_enters_and_nobody_leaves(
    synced: Installation,
    engage: EngageSandbox,
    space: PublicApiSandbox,
    url: str,
    trouble: str,
) -> None:
    before = synced.holds()
    evolution = engage.evolve(fraction=0.2)
    assert sum(evolution.exited.values()) >= 10
    custom_trait(synced, "has_pet")
    said = {
        "nobody there": "after 5 tries; until it can be read, nothing that left is taken out",
        "token": "the Public API refuses the token (status 401): set engage.public_api.token",
        "pace": "status 429; it wants another 500 s",
        "no JSON": "sent an answer that cannot be read",
    }[trouble]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        if trouble == "nobody there":
            synced.configure(more=section(f"http://127.0.0.1:{nobody.getsockname()[1]}"))
        elif trouble == "token":
            synced.configure(more=section(url, token="wrong"))
        elif trouble == "pace":
            space.faults = Faults({"429": 1.0}, retry_after=500)
        else:
            space.listed = [replace(space.listed[0], status=5)]  # type: ignore[arg-type]
        listed = listed_by(engage)
        run = synced.json("sync", exit_code=1)
    check_sums(run)
    assert run["state"] == "done"
    (problem,) = run["problems"]
    assert said in problem
    left = {key for key in engage.audiences if evolution.exited[key]}
    assert set(run["waiting"]) == left
    assert all("the Public API could not be read" in reason for reason in run["waiting"].values())
    assert synced.holds() == without_exits(engage, before, *engage.audiences)
    assert "has_pet" not in by_key(run)
    engage.observe()

    # It is there again: the next run makes good for all.
    space.listed, space.faults = listed, Faults()
    synced.configure(more=section(url))
    run = synced.json("sync")
    check_sums(run)
    assert (run["kind"], run["waiting"]) == ("incremental", {})
    assert share_pulled(synced, run) > 0.9
    assert synced.holds() == expected_records(engage)
    assert share_pulled(synced, synced.json("sync")) < 0.5


def test_a_first_run_without_the_public_api_sends_nothing(
    installation: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """Nobody knows yet what is an audience and what a custom trait."""
    engage.fill(100, 3)
    space.listed = listed_by(engage)
    installation.configure(more=section(url, token="wrong"))
    for _ in range(2):
        said = installation.run("sync", exit_code=1).stderr
        assert "refuses the token" in said
        assert "no earlier run knows which traits are audiences, so nothing was sent" in said
    assert installation.amberflo.stats()["requests"] == {}
    installation.configure(more=section(url))
    assert installation.json("sync")["kind"] == "initial"
    assert installation.holds() == expected_records(engage)


def test_a_deleted_audience_does_not_come_back_while_it_cannot_be_read(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """In the source its members are true for ever."""
    key = engage.audiences[0]
    space.listed = [one for one in space.listed if one.key != key]
    run = synced.json("sync", "--full", exit_code=3)
    synced.run("runs", "approve", "--yes", str(run["run"]))
    had = synced.holds()
    synced.configure(more=section(url, token="wrong"))
    run = synced.json("sync", "--full", exit_code=1)
    assert (run["due"], run["waiting"]) == (0, {})
    assert synced.holds() == had


def test_faults_now_and_then_change_nothing(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    space.faults = Faults.parse("500=0.2,503=0.1,drop=0.3", seed=5)
    for _ in range(3):
        engage.evolve(fraction=0.02)
        space.listed = listed_by(engage)
        check_sums(synced.json("sync"))
        assert synced.holds() == expected_records(engage)
        engage.observe()
    assert len(space.stats()["faults"]) > 1


# Sizes, and what is known of the computations


def test_sizes_that_differ_are_told(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    key, other = engage.audiences[:2]
    here = sum(record["traits"].get(key) is True for record in synced.holds().values())
    space.listed = [
        replace(one, size=2 * here) if one.key == key else one for one in listed_by(engage)
    ]
    space.listed = [*space.listed, Listed("nobody_pulled", size=11), Listed("few", size=10)]
    set_status(space, "Computing", other, size=9999)
    run = synced.json("sync", "--full")
    assert (run["state"], run["problems"]) == ("done", [])
    assert run["mismatches"] == [
        {"key": key, "segment": 2 * here, "here": here},
        {"key": "nobody_pulled", "segment": 11, "here": 0},
    ]
    said = synced.run("sync", "--full").stderr
    assert f"mismatch: {key}: {2 * here:,} members in Segment, {here:,} here" in said
    # A partial run does not know; a wider tolerance does not tell.
    assert synced.json("sync")["mismatches"] == []
    synced.configure(more=section(url, size_tolerance=1.0))
    assert synced.json("sync", "--full")["mismatches"] == []


def test_members_are_counted_as_the_run_leaves_them(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    """With a tolerance of nothing but ten, after entries and exits of many."""
    engage.evolve(fraction=0.9)
    wanted = expected_records(engage)
    space.listed = [
        Listed(key, size=sum(record["traits"].get(key) is True for record in wanted.values()))
        for key in engage.audiences
    ]
    space.listed += [Listed(REVENUE, kind="computed_trait")]
    space.listed = [replace(one, size=(one.size or 0) + 10) for one in space.listed]
    synced.configure(more=section(url, size_tolerance=0) + "[guard]\nmax_exits = 1.0\n")
    run = synced.json("sync", "--full", exit_code=3)  # two of the computed traits are not listed
    assert run["mismatches"] == []
    space.listed = [replace(one, size=(one.size or 0) + 1) for one in space.listed]
    run = synced.json("sync", "--full", exit_code=3)
    assert [one["key"] for one in run["mismatches"]] == list(engage.audiences)
    assert all(one["segment"] - one["here"] == 11 for one in run["mismatches"])


def test_name_status_and_size_are_kept(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    key = engage.audiences[0]
    set_status(space, "Awaiting Destinations", key, name="Order Completed", size=5)
    synced.run("sync")
    found = known_traits(synced)
    row = found[key]
    assert (row.name, row.status, row.size) == ("Order Completed", "Awaiting Destinations", 5)
    assert (found[REVENUE].status, found[REVENUE].size) == ("Live", None)


def test_check_tells_what_is_listed(
    installation: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    engage.fill(50, 3)
    space.listed = [*listed_by(engage), Listed("teams", of="ACCOUNTS")]
    set_status(space, "Failed", engage.audiences[0])
    (line,) = [row for row in installation.json("check") if row["check"] == "catalog"]
    assert line == {
        "check": "catalog",
        "ok": True,
        "message": "3 audiences, 3 computed traits, 1 not live",
    }
    installation.configure(more=section(url, token="wrong"))
    said = installation.run("check", exit_code=1).stdout
    assert "FAIL  catalog: the Public API refuses the token (status 401)" in said
    installation.configure()
    assert not [row for row in installation.json("check") if row["check"] == "catalog"]


def test_the_guard_and_the_gate_on_postgresql(
    installation: Installation, space: PublicApiSandbox, url: str, postgres_url: str
) -> None:
    """The story in short, with the warehouse and the state on PostgreSQL."""
    installation.configure(source=postgres_url, state=postgres_url, more=section(url))
    engage = EngageSandbox(postgres_url, seed=3)
    try:
        engage.fill(300, 4)
        space.listed = listed_by(engage)
        installation.run("sync")
        engage.observe()
        before = installation.holds()
        evolution = engage.evolve(fraction=0.2)
        key = busiest(engage, evolution)
        set_status(space, "Preparing", key)
        run = installation.json("sync")
        check_sums(run)
        assert list(run["waiting"]) == [key]
        assert installation.holds() == without_exits(engage, before, key)
        engage.observe()
        set_status(space, "Live", key)
        check_sums(installation.json("sync"))
        assert installation.holds() == expected_records(engage)
    finally:
        engage.close()


def test_the_sandbox_has_a_catalog(tmp_path: Path) -> None:
    """What `syncer sandbox` and `syncer demo` stand on: its config asks its Public API."""
    with environment(tmp_path, users=100, audiences=4) as on:
        installation = Installation(tmp_path, on.amberflo, on.amberflo_url)
        installation.config.write_text(on.config, encoding="utf-8")
        (line,) = [row for row in installation.json("check") if row["check"] == "catalog"]
        assert line["message"].startswith("4 audiences, ")
        for _ in range(2):
            run = installation.json("sync", "--full")
            assert (run["state"], run["waiting"], run["mismatches"]) == ("done", {}, [])
            assert installation.holds() == expected_records(on.engage)
            on.engage.observe()
            on.evolve(fraction=0.2)
        assert on.public_api.stats()["answers"].keys() == {200}
