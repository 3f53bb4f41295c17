"""The audit as the shell would ask it, against what Engage, the diff and Amberflo say."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import orjson
import pytest

from syncer.sandbox.engage import EngageSandbox
from tests.e2e.audit.helpers import rows_of
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

TIMES = ("observed_at", "recorded_at", "delivered_at")


@pytest.fixture
def story(installation: Installation, engage: EngageSandbox) -> list[dict[str, set[str]]]:
    """Three runs; gives who was in which audience at Amberflo after each."""
    engage.fill(80, 4)
    memberships = []
    for _ in range(3):
        installation.run("sync")
        engage.evolve(hours=3, fraction=0.2)
        inside: dict[str, set[str]] = {}
        for customer_id, record in installation.holds().items():
            for trait, value in record["traits"].items():
                if value in (True, False):
                    inside.setdefault(trait, set()).update([customer_id] if value else [])
        memberships.append(inside)
    return memberships


def as_csv(value: Any) -> str:
    return "" if value is None else str(value)


def test_who_was_in_after_each_run(
    installation: Installation, story: list[dict[str, set[str]]]
) -> None:
    assert any(state != story[0] for state in story)
    for number, inside in enumerate(story, start=1):
        committed = installation.json("runs", "show", str(number))
        for trait, members in inside.items():
            document = installation.json("audit", "audience", trait, "--at-run", str(number))
            assert document["members"] == sorted(members, key=str.encode)
            assert document["count"] == len(members)
            assert committed["started_at"] <= document["at"] <= committed["ended_at"]
            same = installation.json("audit", "audience", trait, "--at", document["at"])
            assert same == document
            rows = rows_of(installation, "audit", "audience", trait, "--at", document["at"])
            assert [row["customer_id"] for row in rows] == document["members"]
        counts = installation.json("audit", "at", document["at"])
        assert {audience["trait"]: audience["count"] for audience in counts["audiences"]} == {
            trait: len(members) for trait, members in inside.items()
        }
        assert counts["at"] == document["at"]
        rows = rows_of(installation, "audit", "at", document["at"])
        assert [row["count"] for row in rows] == [
            str(audience["count"]) for audience in counts["audiences"]
        ]


def test_the_audit_of_a_run_is_the_diff_before_it(
    installation: Installation, engage: EngageSandbox
) -> None:
    engage.fill(80, 4)
    for number in (1, 2, 3):
        diff = installation.json("diff", "--customers")
        installation.run("sync")
        audit = installation.json("audit", "run", str(number))
        assert (audit["run"], audit["kind"]) == (number, diff["kind"])
        expected = [
            (
                customer["customer_id"],
                *(change[name] for name in ("key", "trait", "before", "after")),
            )
            for customer in diff["changes"]
            for change in customer["changes"]
        ]
        told = [
            tuple(change[name] for name in ("customer_id", "key", "trait", "before", "after"))
            for change in audit["changes"]
        ]
        assert sorted(told, key=repr) == sorted(expected, key=repr)
        assert told
        assert all(
            change["run"] == number and change["delivered_at"] for change in audit["changes"]
        )
        keys = [change["key"] for change in audit["changes"]]
        assert keys == sorted(keys)

        rows = rows_of(installation, "audit", "run", str(number))
        for row, entry in zip(rows, audit["changes"], strict=True):
            for name in ("customer_id", "trait", "key", *TIMES):
                assert row[name] == as_csv(entry[name])
        table = installation.run("audit", "run", str(number)).stdout.splitlines()
        for sums in diff["traits"]:
            part = installation.json("audit", "run", str(number), "--key", sums["trait"])
            assert part["changes"] == [
                change for change in audit["changes"] if change["key"] == sums["key"]
            ]
            if part["changes"]:
                entered = [change for change in part["changes"] if change["after"] is True]
                words = next(line for line in table if line.split()[1:2] == [sums["key"]]).split()
                assert words[3] == str(len(entered))
        engage.evolve(hours=3, fraction=0.2)


def test_entered_and_exited(installation: Installation, story: list[dict[str, set[str]]]) -> None:
    """Those of a run's time are the difference of the members before and after it."""
    moments = [
        installation.json("audit", "audience", next(iter(story[0])), "--at-run", str(run))["at"]
        for run in (1, 2, 3)
    ]
    moved = 0
    for trait in story[0]:
        before, after = story[1][trait], story[2][trait]
        document = installation.json(
            "audit", "audience", trait, "--since", moments[2], "--until", "2100-01-01"
        )
        assert {entry["customer_id"] for entry in document["entered"]} == after - before
        assert {entry["customer_id"] for entry in document["exited"]} == before - after
        for entry in document["entered"] + document["exited"]:
            assert list(entry) == ["customer_id", *TIMES, "run", "source", "via"]
            assert (entry["run"], entry["source"], entry["recorded_at"]) == (3, "pull", moments[2])
        whole = installation.json("audit", "audience", trait)
        until = installation.json("audit", "audience", trait, "--until", moments[2])
        for side in ("entered", "exited"):
            assert whole[side] == until[side] + document[side]
        rows = rows_of(installation, "audit", "audience", trait)
        assert len(rows) == len(whole["entered"]) + len(whole["exited"])
        for side in ("entered", "exited"):
            assert [row for row in rows if row["change"] == side] == [
                {"change": side, **{name: as_csv(value) for name, value in entry.items()}}
                for entry in whole[side]
            ]
        moved += len(document["entered"]) + len(document["exited"])
        said = installation.run("audit", "audience", trait).stdout
        assert f"{len(whole['entered'])} entered" in said
        assert f"{len(whole['exited'])} left it" in said
    assert moved


def test_a_customer_then_and_now(
    installation: Installation, story: list[dict[str, set[str]]]
) -> None:
    moved = sorted({member for trait in story[0] for member in story[0][trait] ^ story[2][trait]})
    assert moved
    for customer_id in moved[:5]:
        ask = ("audit", "customer", customer_id)
        now = installation.json(*ask)
        assert now["present"] == installation.holds()[customer_id]["traits"]
        for number, inside in enumerate(story, start=1):
            then = installation.json(*ask, "--at-run", str(number))
            for trait, members in inside.items():
                assert (then["present"].get(trait) is True) == (customer_id in members)
            runs = [change["run"] for change in now["changes"] if change["run"] <= number]
            assert then["changes"] == now["changes"][: len(runs)]
            assert installation.json(*ask, "--at", then["at"]) == then
        last = now["changes"][-1]
        since = installation.json(*ask, "--since", last["recorded_at"])["changes"]
        until = installation.json(*ask, "--until", last["recorded_at"])["changes"]
        assert until + since == now["changes"]
        assert {entry["run"] for entry in since} == {last["run"]}
        part = installation.json(*ask, "--key", last["key"])
        assert part["present"] == {last["trait"]: last["after"]}
        assert part["changes"] == [
            change for change in now["changes"] if change["key"] == last["key"]
        ]
        newest = installation.json(*ask, "--limit", "1")
        assert (newest["present"], newest["changes"]) == (now["present"], [last])
        for row, entry in zip(rows_of(installation, *ask), now["changes"], strict=True):
            for name in ("trait", "key", "run", *TIMES):
                assert row[name] == as_csv(entry[name])
            for name in ("before", "after"):
                assert (orjson.loads(row[name]) if row[name] else None) == entry[name]
        table = installation.run(*ask).stdout
        assert f"{customer_id} now" in table
        assert "history" in table


def test_the_history_begins_with_the_first_run(
    installation: Installation, story: list[dict[str, set[str]]]
) -> None:
    """A question as of an earlier moment is refused in one line, also as JSON; every other answer
    as of a moment says since when it can be given."""
    trait, members = next(iter(story[0].items()))
    customer_id = next(iter(members))
    questions = (["audience", trait, "--at"], ["customer", customer_id, "--at"], ["at"])
    begins = installation.json("audit", *questions[0][:2], "--at-run", "1")["at"]
    before = datetime.fromisoformat(begins) - timedelta(milliseconds=1)
    line = f"the history begins {begins} with run 1; it cannot tell who was in before"
    for question in questions:
        for at in (before.isoformat(), "2020-01-01", "0001-01-01"):
            for form in ([], ["--csv"], ["--json"]):
                said = installation.run("audit", *question, at, *form, exit_code=2)
                assert said.stderr == f"error: {line}\n"
                assert (orjson.loads(said.stdout) if said.stdout else {}) == (
                    {"error": line, "known_since": begins} if form == ["--json"] else {}
                )
        for at in (begins, "2100-01-01"):
            answer = installation.json("audit", *question, at)
            assert answer["known_since"] == begins
    # A list of what was recorded is no answer as of a moment.
    early = installation.json("audit", "audience", trait, "--until", begins)
    assert (early["entered"], early["exited"]) == ([], [])


def test_times_in_several_formats(
    installation: Installation, story: list[dict[str, set[str]]]
) -> None:
    trait = next(iter(story[0]))
    at = installation.json("audit", "audience", trait, "--at-run", "2")["at"]
    moment = datetime.fromisoformat(at)
    elsewhere = moment.astimezone(timezone(timedelta(hours=5, minutes=30)))
    expected = installation.json("audit", "audience", trait, "--at", at)
    for text in (
        at.replace("T", " "),
        at.removesuffix("Z"),
        at.replace("Z", "+00:00"),
        elsewhere.isoformat(timespec="milliseconds"),
        elsewhere.strftime("%Y%m%dT%H%M%S.%f%z"),
    ):
        assert installation.json("audit", "audience", trait, "--at", text) == expected
    for text, day in (("2096-11-01", "2096-11-01"), ("2096-W45-1", "2096-11-05")):
        assert installation.json("audit", "at", text)["at"] == f"{day}T00:00:00.000Z"
    beyond = ("0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00")
    for text in ("yesterday", "2026-13-01", "", "12", *beyond):
        said = installation.run("audit", "at", text, exit_code=2).stderr
        assert f"{text!r} is not a time; write for example 2026-11-01" in said


def test_who_entered_and_left_in_the_last_run(
    installation: Installation, warehouse: Warehouse
) -> None:
    said = installation.run("audit", "run", "last", exit_code=(1, 2)).stderr
    assert "error: " in said
    members = warehouse.users(40, ago=40, vip="true", total_revenue_7="1")
    warehouse.user("late", ago=40, vip="false", total_revenue_7="1")
    installation.run("sync")
    warehouse.say("late", "vip", "true")
    for customer_id in members[:3]:
        warehouse.say(customer_id, "vip", "false")
        warehouse.say(customer_id, "total_revenue_7", "2")
    installation.run("sync")

    def whom(*options: str) -> list[str]:
        changes = installation.json("audit", "run", "last", *options)["changes"]
        rows = rows_of(installation, "audit", "run", "last", *options)
        assert [row["customer_id"] for row in rows] == [it["customer_id"] for it in changes]
        return sorted(it["customer_id"] for it in changes)

    assert installation.json("audit", "run", "last")["run"] == 2
    assert whom("--exited") == members[:3]
    assert whom("--entered") == ["late"]
    assert whom("--entered", "--exited", "--key", "vip") == ["late", *members[:3]]
    assert whom("--exited", "--key", "total_revenue_7") == []
    assert len(whom()) == 7
    table = installation.run("audit", "run", "last", "--exited", "--limit", "2").stdout
    assert "and 1 more" in table
    assert "total_revenue_7 " not in table.partition("customer_id")[2]
    said = installation.run("audit", "run", "first", exit_code=2).stderr
    assert "'first' is no run: write its number, or last for the newest one" in said


def test_the_audit_of_a_run_says_what_was_held(
    installation: Installation, warehouse: Warehouse
) -> None:
    members = warehouse.users(40, ago=40, vip="true")
    installation.run("sync")
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "false")
    installation.run("sync", exit_code=3)
    shown = installation.run("audit", "run", "last").stdout
    assert "of 20 more customers the guard held something: `syncer runs held 2` lists" in shown
    assert installation.json("audit", "run", "last")["held"] == 20
