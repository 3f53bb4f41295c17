"""What is an audience follows from all the values of a key, and stays so; what was taken by mistake
can be given back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.calls import identify, membership, take
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


def traits_of(installation: Installation, customer_id: str) -> Any:
    return installation.amberflo.customers[customer_id]["traits"]


def said(installation: Installation, *words: str, exit_code: int | tuple[int, ...] = 0) -> str:
    result = installation.run(*words, exit_code=exit_code)
    return result.stdout + result.stderr


@pytest.mark.parametrize("values", [("F", "M", "unknown"), ("true", "gold", "silver"), ("1", "7")])
def test_text_that_reads_as_a_boolean_now_and_then_is_no_audience(
    installation: Installation, warehouse: Warehouse, values: tuple[str, ...]
) -> None:
    for number in range(6):
        value = values[number % len(values)]
        warehouse.user(f"u{number}", vip="true", gender=value)
        installation.amberflo.customers[f"u{number}"] = {
            "customerId": f"u{number}",
            "customerName": "Ada",
            "traits": {"gender": "female", "stripeId": f"cus_{number}"},
        }
    installation.run("sync")
    for number in range(6):
        assert traits_of(installation, f"u{number}") == {
            "vip": True,
            "gender": "female",
            "stripeId": f"cus_{number}",
        }


def test_a_stray_boolean_takes_no_trait_from_identify(
    installation: Installation, warehouse: Warehouse
) -> None:
    for number in range(4):
        warehouse.user(f"u{number}", vip="true", plan="premium")
    installation.run("sync")
    take(installation.config, identify("u1", plan="premium"))
    warehouse.say("u3", "plan", "true")
    installation.run("sync")
    take(installation.config, identify("u1", plan="gold"), identify("u2", plan="gold"))
    installation.run("sync")
    installation.run("sync", "--full")
    assert traits_of(installation, "u1") == {"vip": True, "plan": "gold"}
    assert traits_of(installation, "u2") == {"vip": True, "plan": "gold"}
    assert traits_of(installation, "u3") == {"vip": True}


def test_an_audience_stays_one_when_a_stray_value_comes(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(5, ago=40, vip="true")
    installation.run("sync")
    warehouse.say("u00", "vip", "maybe", ago=2)
    warehouse.say("u01", "vip", "false", ago=2)
    run = installation.json("sync")
    (row,) = [trait for trait in run["traits"] if trait["key"] == "vip"]
    assert row["reasons"] == {"not a boolean": 1}
    for _ in range(2):
        assert installation.members("vip") == {"u00", "u02", "u03", "u04"}
        installation.run("sync", "--full")
    warehouse.say("u00", "vip", "false", ago=0.5)
    installation.run("sync")
    assert installation.members("vip") == {"u02", "u03", "u04"}


def test_a_key_that_is_named_is_an_audience_whatever_its_values(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(engage='audiences = ["*", "beta"]')
    warehouse.users(3, ago=40, vip="true", beta="perhaps")
    warehouse.say("u00", "beta", "true", ago=40)
    installation.run("sync")
    assert installation.values("beta") == {"u00": True}


def test_a_custom_trait_of_another_spelling_freezes_nobody(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(5, ago=40, vip="true")
    installation.run("sync")
    warehouse.say("u04", "VIP", "true")
    warehouse.say("u00", "vip", "false", ago=0.9)
    warehouse.user("u09", ago=0.9, vip="true")
    output = said(installation, "sync")
    assert "VIP" in output
    assert installation.members("vip") == {"u01", "u02", "u03", "u04", "u09"}
    warehouse.say("u01", "vip", "false", ago=0.5)
    installation.run("sync", "--full")
    assert installation.members("vip") == {"u02", "u03", "u04", "u09"}


def test_two_new_keys_of_one_name_are_both_refused(
    installation: Installation, warehouse: Warehouse
) -> None:
    for customer_id in warehouse.users(3, vip="true", big_spender="false"):
        warehouse.say(customer_id, "Big Spender", "true")
    output = said(installation, "sync", exit_code=1)
    assert "Big Spender" in output
    assert installation.values("big_spender") == {}
    assert len(installation.members("vip")) == 3


@pytest.mark.parametrize("globs", ['["vip"]', '["*", "!beta"]'])
def test_a_key_that_the_config_leaves_out_is_left_alone(
    installation: Installation, warehouse: Warehouse, globs: str
) -> None:
    """By pulls and by calls; no hold asks about it."""
    ids = warehouse.users(20, ago=40, vip="true", beta="true")
    installation.run("sync")
    installation.configure(engage=f"audiences = {globs}")
    for customer_id in ids[:15]:
        warehouse.say(customer_id, "beta", "false")
    assert "beta" in said(installation, "sync")
    told = take(installation.config, membership("u16", "beta", False))
    assert told["dropped: key is not ours"] == 1
    installation.run("sync", "--full")
    assert installation.members("beta") == set(ids)
    assert installation.json("status")["held"] == []
    warehouse.say("u00", "vip", "false", ago=0.2)
    installation.run("sync")
    assert traits_of(installation, "u00") == {"vip": False, "beta": True}

    # Taken in again, it is compared anew.
    installation.configure()
    installation.run("sync", exit_code=3)
    assert installation.members("beta") == set(ids)


def test_a_trait_is_given_back(installation: Installation, warehouse: Warehouse) -> None:
    """What was there before is there again, and stays whatever Engage says."""
    warehouse.users(3, ago=40, vip="true", beta="true")
    installation.amberflo.customers["u00"] = {
        "customerId": "u00",
        "customerName": "Ada",
        "traits": {"beta": "by the CRM"},
    }
    installation.run("sync")
    assert len(installation.members("beta")) == 3
    installation.run("traits", "release", "beta", "--yes")
    installation.run("sync")
    assert installation.values("beta") == {"u00": "by the CRM"}
    installation.amberflo.customers["u01"]["traits"]["beta"] = "by hand"
    warehouse.say("u01", "beta", "false")
    warehouse.say("u02", "vip", "false")
    told = take(installation.config, membership("u02", "beta", True))
    assert told["dropped: key is not ours"] == 1
    installation.run("sync")
    installation.run("sync", "--full")
    installation.run("resync", "--yes")
    assert installation.values("beta") == {"u00": "by the CRM", "u01": "by hand"}
    assert installation.values("vip")["u02"] is False
    listed = {trait["key"]: trait for trait in installation.json("traits")}
    assert listed["vip"]["members"] == 2
    installation.run("verify")


def test_the_hold_of_a_trait_that_is_given_back_is_over(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(40, ago=40, vip="true", beta="true")
    installation.run("sync")
    warehouse.lose("beta", ids[:30])
    installation.run("sync", "--full", exit_code=3)
    installation.run("traits", "release", "beta", "--yes")
    assert installation.json("status")["held"] == []
    installation.run("sync", "--full")
    assert installation.values("beta") == {}


def test_members_of_a_key_that_gives_its_name_away_have_a_history(
    installation: Installation, warehouse: Warehouse
) -> None:
    for number in range(5):
        warehouse.user(f"u{number}", ago=20, **{"Big Spender": "true"})
    installation.run("sync")
    warehouse.rename("Big Spender", "big_spender")
    installation.run("sync", "--full")
    assert len(installation.members("big_spender")) == 5
    puts = installation.puts()
    now = "2100-01-01T00:00:00Z"
    assert installation.json("audit", "audience", "big_spender", "--at", now)["count"] == 5
    assert installation.json("audit", "audience", "Big Spender", "--at", now)["count"] == 0
    assert puts == {f"u{number}": 1 for number in range(5)}
    sources = {
        change["source"] for change in installation.json("audit", "customer", "u0")["changes"]
    }
    assert "renamed" in sources

    warehouse.say("u1", "big_spender", "false", ago=0.1)
    installation.run("sync")
    assert installation.json("audit", "audience", "big_spender", "--at", now)["count"] == 4
    installation.amberflo.reset_stats()
    installation.run("resync", "--audience", "big_spender", "--yes")
    assert len(installation.puts()) == 5


def test_another_filter_makes_a_run_compare_everything(
    installation: Installation, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it leaves out is gone at the next run, and no filter that is none is taken."""
    for number in range(6):
        warehouse.user(f"u{number}", vip="true", gold="true")
    warehouse.db.execute("ALTER TABLE user_traits ADD COLUMN _fivetran_deleted BOOLEAN DEFAULT 0")
    warehouse.db.execute(
        "UPDATE user_traits SET _fivetran_deleted = 1 "
        "WHERE name = 'vip' AND canonical_segment_id = 'p-u1'"
    )
    installation.run("sync")
    assert traits_of(installation, "u1") == {"vip": True, "gold": True}
    monkeypatch.setenv("SYNCER_ENGAGE__FILTER", "NOT _fivetran_deletd")
    for words in (["check"], ["sync"], ["diff"]):
        assert "engage.filter: no table" in said(installation, *words, exit_code=1)
    monkeypatch.setenv("SYNCER_ENGAGE__FILTER", "NOT _fivetran_deleted")
    run = installation.json("sync")
    assert (run["kind"], run["exited"]) == ("reconcile", 1)
    assert traits_of(installation, "u1") == {"vip": False, "gold": True}
    assert traits_of(installation, "u2") == {"vip": True, "gold": True}
