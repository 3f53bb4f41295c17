"""Which traits are ours over several runs, and giving one back, by the program."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from tests.support.calls import identify, membership, take
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


def at_amberflo(installation: Installation, customer_id: str, **traits: Any) -> None:
    """What others have put there."""
    record = {"customerId": customer_id, "customerName": "n", "traits": traits}
    installation.amberflo.customers[customer_id] = record


def choose(installation: Installation, *audiences: str) -> None:
    entries = ", ".join(f'"{audience}"' for audience in audiences)
    installation.configure(engage=f"audiences = [{entries}]")


def status(installation: Installation) -> dict[str, tuple[Any, ...]]:
    return {
        row["key"]: (row["kind"], row["members"], row["status"])
        for row in installation.json("traits")
    }


# What is an audience


def test_a_text_in_which_a_value_reads_as_a_boolean_is_no_audience(
    installation: Installation, warehouse: Warehouse
) -> None:
    for number, gender in enumerate(("F", "M", "unknown", "f", "m", "F")):
        warehouse.user(f"u{number}", vip="true", gender=gender)
        at_amberflo(installation, f"u{number}", gender="female", stripeId=f"cus_{number}")
    run = installation.json("sync")
    assert [row["key"] for row in run["traits"]] == ["vip"]
    (notice,) = run["notices"]
    assert notice.startswith("gender: 3 of 6 values are booleans: it is not an audience")
    assert (run["state"], run["problems"]) == ("done", [])
    assert installation.values("gender") == {f"u{n}": "female" for n in range(6)}
    # The same is said by who only looks, and a run that finds it again is as good.
    assert notice in installation.run("diff", "--full").stderr
    assert installation.json("diff", "--full")["notices"] == [notice]
    assert notice in installation.run("sync").stderr


def test_a_stray_boolean_leaves_a_trait_to_identify_calls(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(4, vip="true", plan="premium")
    installation.run("sync")
    warehouse.say("u03", "plan", "true")
    installation.run("sync")
    take(installation.config, identify("u01", plan="gold"), identify("u02", plan="silver"))
    installation.run("sync", "--full")
    assert installation.values("plan") == {"u01": "gold", "u02": "silver"}


def test_a_stray_value_leaves_an_audience_one(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(4, vip="true")
    installation.run("sync")
    warehouse.say("u00", "vip", "perhaps")
    warehouse.say("u01", "vip", "false")
    for arguments in (["sync"], ["sync", "--full"]):
        run = installation.json(*arguments)
        (trait,) = run["traits"]
        assert (trait["reasons"], run["state"]) == ({"not a boolean": 1}, "done")
        assert run["notices"][0].startswith("vip: 1 of 4 values are not booleans")
    assert installation.values("vip") == {"u00": True, "u01": False, "u02": True, "u03": True}


def test_a_small_count_is_no_audience(installation: Installation, warehouse: Warehouse) -> None:
    """Taken for one, it would say true for ever once it counts on."""
    warehouse.users(2, logins="1", vip="true")
    warehouse.user("u09", logins="0")
    run = installation.json("sync")
    assert run["notices"][0].startswith("logins: the only values are 1 and 0, which may be a count")
    assert (installation.values("logins"), installation.members("vip")) == ({}, {"u00", "u01"})
    warehouse.say("u00", "logins", "7")
    assert installation.json("sync", "--full")["state"] == "done"
    assert installation.values("logins") == {}
    installation.configure(engage='computed_traits = ["logins"]')
    installation.run("sync")
    assert installation.values("logins") == {"u00": 7, "u01": 1, "u09": 0}


def test_booleans_that_became_real_numbers_are_memberships(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(2, vip="1.0")
    warehouse.user("u09", vip="0.00")
    run = installation.json("sync")
    assert (run["traits"][0]["entered"], run["traits"][0]["skipped"]) == (2, 0)
    assert installation.members("vip") == {"u00", "u01"}


def test_an_audience_of_which_nothing_can_be_read_makes_the_run_red(
    installation: Installation, warehouse: Warehouse
) -> None:
    """It was named, and is a count: somebody is billed for what nobody says any more."""
    choose(installation, "*", "logins")
    warehouse.users(2, logins="1", vip="true")
    assert installation.json("sync")["problems"] == []
    assert installation.members("logins") == {"u00", "u01"}
    for user in ("u00", "u01"):
        warehouse.say(user, "logins", "7")
    warehouse.say("u00", "vip", "false")
    run = installation.json("sync", exit_code=1)
    assert run["problems"][0].startswith("logins: none of its 2 values is a boolean")
    assert "syncer traits release logins" in run["problems"][0]
    assert installation.members("vip") == {"u01"}, "everything else goes on"
    choose(installation, "*")
    installation.run("traits", "release", "logins", "--yes")
    installation.run("sync")
    assert installation.values("logins") == {}


def test_a_newcomer_does_not_freeze_an_audience(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(5, vip="true")
    installation.run("sync")
    warehouse.say("u04", "VIP", "true")
    warehouse.say("u00", "vip", "false")
    warehouse.user("u09", vip="true", ago=1)
    for arguments in (["sync"], ["sync", "--full"]):
        run = installation.json(*arguments)
        assert (run["state"], run["problems"]) == ("done", [])
        (notice,) = run["notices"]
        assert notice.startswith("the key 'VIP' gives the trait name 'vip'")
        reasons = {row["key"]: row["reasons"] for row in run["traits"]}
        assert reasons["VIP"] == {"name taken twice": 1}
    assert installation.members("vip") == {"u01", "u02", "u03", "u04", "u09"}
    assert installation.json("sync")["kind"] == "incremental", "it is not new for ever"
    # The config can say so, too.
    choose(installation, "*", "!VIP")
    assert installation.json("sync")["notices"] == []


def test_two_new_keys_with_one_name_are_an_error(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(2, vip="true", VIP="true", other="true")
    run = installation.json("sync", exit_code=1)
    assert "'VIP' and 'vip'" in run["problems"][0]
    assert installation.json("sync", exit_code=1)["kind"] == "incremental"
    assert (installation.values("vip"), len(installation.members("other"))) == ({}, 2)


# What the config leaves out


@pytest.mark.parametrize("globs", [["vip"], ["*", "!beta"]])
def test_what_the_config_leaves_out_stays_as_it_is(
    installation: Installation, warehouse: Warehouse, globs: list[str]
) -> None:
    warehouse.users(3, vip="true", beta="true")
    installation.run("sync")
    choose(installation, *globs)
    warehouse.say("u00", "beta", "false")
    warehouse.lose("beta", ["u01"])
    left_out = "beta is left out by engage.audiences: its 3 members stay as they are"
    for arguments in (["sync"], ["sync", "--full"], ["resync", "--yes"]):
        run = installation.json(*arguments)
        assert (run["state"], run["hold_reasons"], run["problems"]) == ("done", {}, [])
        assert run["notices"][0].startswith(left_out)
        assert [row["key"] for row in run["traits"]] == ["vip"]
    assert left_out in installation.run("diff").stderr
    counts = take(installation.config, membership("u02", "beta", False))
    assert counts["dropped: key is not ours"] == 1
    installation.run("sync")
    assert installation.members("beta") == {"u00", "u01", "u02"}
    assert installation.json("verify")["drifted"] == []
    assert status(installation)["beta"] == ("audience", 3, "left out")

    # It is taken in again, and all that it missed comes with the next run.
    choose(installation, "*")
    installation.run("sync")
    assert installation.members("beta") == {"u02"}


def test_what_is_held_of_a_trait_ends_when_the_config_leaves_it_out(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(40, vip="true", beta="true")
    installation.run("sync")
    warehouse.lose("beta", ids)
    installation.run("sync", "--full", exit_code=3)
    choose(installation, "vip")
    run = installation.json("sync")
    assert (run["state"], run["hold_reasons"]) == ("done", {})
    assert installation.json("status")["held"] == []
    assert len(installation.members("beta")) == 40


# Giving a trait back


@pytest.fixture
def taken(installation: Installation, warehouse: Warehouse) -> Installation:
    """A trait that was taken by mistake from others: two customers had it before us."""
    warehouse.users(4, vip="true", plan="true")
    warehouse.user("u09", vip="true")
    for customer_id, plan in (("u00", "gold"), ("u09", "silver")):
        at_amberflo(installation, customer_id, plan=plan)
    installation.run("sync")
    assert installation.values("plan") == dict.fromkeys(("u00", "u01", "u02", "u03"), True)
    return installation


def test_a_trait_is_given_back(taken: Installation, warehouse: Warehouse) -> None:
    assert status(taken)["plan"] == ("audience", 4, None)
    told = taken.json("traits", "release", "plan", "--yes")
    assert told == {"key": "plan", "trait": "plan", "customers": 5, "restored": 2}
    assert taken.values("plan")["u00"] is True, "that is the next delivery's to do"
    taken.run("sync")
    assert taken.values("plan") == {"u00": "gold", "u09": "silver"}
    assert taken.json("verify")["drifted"] == []
    assert taken.json("audit", "audience", "plan", "--at", "2030-01-01")["members"] == []

    # From now on it is others': no run, no call and no repair touches it.
    taken.amberflo.customers["u00"]["traits"]["plan"] = "platinum"
    taken.amberflo.customers["u01"]["traits"]["plan"] = "bronze"
    warehouse.say("u01", "plan", "false")
    warehouse.users(1, vip="true")
    counts = take(taken.config, membership("u02", "plan", True))
    assert counts["dropped: key is not ours"] == 1
    for arguments in (["sync"], ["sync", "--full"], ["resync", "--yes"]):
        assert [row["key"] for row in taken.json(*arguments)["traits"]] == ["vip"]
    theirs = {"u00": "platinum", "u01": "bronze", "u09": "silver"}
    assert taken.values("plan") == theirs
    assert taken.json("verify")["drifted"] == []
    take(taken.config, identify("u02", plan="gold"))
    taken.run("sync")
    assert taken.values("plan") == {**theirs, "u02": "gold"}, "an identify call may say it again"


def test_a_trait_that_was_given_back_is_taken_again_by_its_name(
    taken: Installation, warehouse: Warehouse
) -> None:
    taken.run("traits", "release", "plan", "--yes")
    taken.run("sync")
    row = next(row for row in taken.json("traits") if row["key"] == "plan")
    assert (row["status"], row["members"]) == ("released", 0)
    assert row["released_at"] is not None
    choose(taken, "*", "plan")
    taken.run("sync")
    assert taken.members("plan") == {"u00", "u01", "u02", "u03"}
    assert status(taken)["plan"] == ("audience", 4, None)

    # That was a first contact as any: what others had by then can be given back again.
    choose(taken, "*")
    assert taken.json("traits", "release", "plan", "--yes")["restored"] == 2
    taken.run("sync")
    assert taken.values("plan") == {"u00": "gold", "u09": "silver"}


def test_what_cannot_be_given_back_is_told(
    taken: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = taken.run("traits", "release", "nobody", "--yes", exit_code=1).stderr
    assert "we own no trait with the key 'nobody'; `syncer traits` lists ours" in said
    choose(taken, "*", "plan")
    said = taken.run("traits", "release", "plan", "--yes", exit_code=2).stderr
    assert "engage.audiences names 'plan'" in said
    choose(taken, "*")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert "Release plan?" in taken.run("traits", "release", "plan", exit_code=2).stderr
    assert status(taken)["plan"][1] == 4
    taken.run("traits", "release", "plan", "--yes")
    said = taken.run("traits", "release", "plan", "--yes", exit_code=1).stderr
    assert "plan was released already, at 2" in said


def test_the_list_is_a_table_too(taken: Installation) -> None:
    said = taken.run("traits").stdout
    assert said == taken.run("traits", "list").stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines()]
    assert ["plan", "plan", "audience", "4", "–", "–"] in cells
    taken.run("traits", "release", "plan", "--yes")
    assert "released" in taken.run("traits").stdout
