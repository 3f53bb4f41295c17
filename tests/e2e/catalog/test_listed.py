"""The Public API says what an audience is, how large it is and whether it is still there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from syncer.sandbox.engage import REVENUE, EngageSandbox
from syncer.sandbox.environment import environment
from syncer.sandbox.public_api import Listed, PublicApiSandbox, listed_by
from tests.e2e.catalog.helpers import (
    busiest,
    by_key,
    check_sums,
    custom_trait,
    known_traits,
    section,
    set_status,
)
from tests.support.installation import Installation, expected_records

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
    return sum(record["traits"].get("has_pet") is True for record in installation.holds().values())


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
    space.listed = [computation for computation in space.listed if computation.key != key]
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
            customer_id: record["traits"][key]
            for customer_id, record in synced.holds().items()
            if key in record["traits"]
        } == {
            customer_id: record["traits"][key]
            for customer_id, record in before.items()
            if key in record["traits"]
        }
    engage.observe()
    known = known_traits(synced)
    assert (known[key].status, known[key].size, known[key].name) == ("Unlisted", None, key)

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
    space.listed = [computation for computation in listed if computation.key != key]
    for _ in range(2):
        synced.run("sync")
        engage.observe()
        engage.evolve(hours=30, fraction=0.001)
    space.listed = listed
    # The run that finds it listed again is followed by one that compares all.
    for _ in range(2):
        synced.run("sync")
    assert synced.holds() == expected_records(engage)


# Sizes, and what is known of the computations


def test_sizes_that_differ_are_told(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox, url: str
) -> None:
    key, other = engage.audiences[:2]
    here = sum(record["traits"].get(key) is True for record in synced.holds().values())
    space.listed = [
        replace(computation, size=2 * here) if computation.key == key else computation
        for computation in listed_by(engage)
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
    space.listed = [
        replace(computation, size=(computation.size or 0) + 10) for computation in space.listed
    ]
    synced.configure(more=section(url, size_tolerance=0) + "[guard]\nmax_exits = 1.0\n")
    run = synced.json("sync", "--full", exit_code=3)  # two of the computed traits are not listed
    assert run["mismatches"] == []
    space.listed = [
        replace(computation, size=(computation.size or 0) + 1) for computation in space.listed
    ]
    run = synced.json("sync", "--full", exit_code=3)
    assert [mismatch["key"] for mismatch in run["mismatches"]] == list(engage.audiences)
    assert all(mismatch["segment"] - mismatch["here"] == 11 for mismatch in run["mismatches"])


def test_name_status_and_size_are_kept(
    synced: Installation, engage: EngageSandbox, space: PublicApiSandbox
) -> None:
    key = engage.audiences[0]
    set_status(space, "Awaiting Destinations", key, name="Order Completed", size=5)
    synced.run("sync")
    known = known_traits(synced)
    row = known[key]
    assert (row.name, row.status, row.size) == ("Order Completed", "Awaiting Destinations", 5)
    assert (known[REVENUE].status, known[REVENUE].size) == ("Live", None)


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
