"""What an approval and a rejection cover, and what calls say after them."""

from __future__ import annotations

from syncer.sandbox.faults import Faults
from tests.e2e.holds.helpers import DOWN, GOOD, MANY, held, hold, holds_of, leave, newest_run
from tests.support import calls
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

# -- what an approval covers


def test_an_approval_covers_exactly_what_was_seen(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    """By customer, not by number: entries that were held make no room for exits."""
    for number in range(12):
        warehouse.user(f"new{number:02}", ago=1, vip="true", other="true")
    run = hold(installation, warehouse, members[:20])
    for number in range(12):
        warehouse.say(f"new{number:02}", "vip", "false", ago=0.2)
    leave(warehouse, members[20:35], ago=0.2)
    installation.run("runs", "approve", "--yes", str(run), exit_code=3)
    assert installation.members("vip") == set(members[20:])
    assert held(installation) == ["vip"]
    (again,) = holds_of(installation, newest_run(installation))
    assert (again["since_run"], again["decision"]) == (newest_run(installation), None)


def test_an_approved_exit_that_engage_took_back_is_not_sent(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    for customer_id in members[:5]:
        warehouse.say(customer_id, "vip", "true", ago=0.2)
    installation.run("runs", "approve", "--yes", str(run))
    assert installation.members("vip") == {*members[:5], *members[20:]}


def test_an_approval_says_who_and_why(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    words = ("--by", "Ada Lovelace", "--because", "the trial ended for all of them")
    installation.run("runs", "approve", "--yes", str(run), *words)
    (decided,) = holds_of(installation, run)
    assert decided["decision"] == "approved"
    assert decided["decided_by"] == "Ada Lovelace"
    assert decided["because"] == "the trial ended for all of them"
    assert decided["decided_at"] is not None
    assert (decided["members"], decided["leaving"], decided["customers"]) == (MANY, 20, 0)
    assert "vip" in installation.run("runs", "show", str(run)).stdout


def test_who_is_concerned_is_on_record_before_and_after_the_decision(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = str(hold(installation, warehouse, members[:20]))
    shown = installation.run("runs", "show", run).stdout
    assert "40 → 20 members (−50 %); 20 customers" in shown
    assert f"`syncer runs held {run}` lists the customers" in shown
    expected = [(member, True, False) for member in sorted(members[:20])]
    for decide in (["reject", run, "--yes"], ["lift", run]):
        document = installation.json("runs", "held", run)
        changes = [(it["customer_id"], it["before"], it["after"]) for it in document["changes"]]
        assert changes == expected
        assert {it["observed_at"] is None for it in document["changes"]} == {False}
        installation.run("runs", *decide)
    # Some come back before it is decided: they are no evidence of the decision.
    installation.run("sync", "--full", exit_code=3)
    run = str(newest_run(installation))
    for member in members[:2]:
        warehouse.say(member, "vip", "true", ago=0.2)
    installation.run("sync", "--full", exit_code=GOOD)
    expected = expected[2:]
    for decide in (["approve", run, "--yes"], ["list"]):
        document = installation.json("runs", "held", run)
        changes = [(it["customer_id"], it["before"], it["after"]) for it in document["changes"]]
        assert changes == expected
        installation.run("runs", *decide)
    few = installation.run("runs", "held", run, "--limit", "3").stdout
    assert "and 15 more: --limit shows more" in few
    lines = installation.run("runs", "held", run, "--csv").stdout.splitlines()
    assert len(lines) == 19
    assert lines[1].startswith(f"{expected[0][0]},vip,vip,true,false,20")
    installation.run("runs", "held", "99", exit_code=1)
    installation.run("runs", "held", "9" * 20, exit_code=2)


def test_a_rejection_says_who_and_why(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run(
        "runs", "reject", "--yes", str(run), "--by", "Max", "--because", "a broken load"
    )
    (decided,) = holds_of(installation, run)
    assert (decided["decision"], decided["decided_by"]) == ("rejected", "Max")
    assert decided["because"] == "a broken load"


def test_an_approval_whose_delivery_fails_is_delivered_later(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.configure(patience="0.3s")
    installation.amberflo.faults = Faults.parse(DOWN)
    installation.run("runs", "approve", "--yes", str(run), exit_code=1)
    assert installation.members("vip") == set(members)
    installation.configure()
    installation.amberflo.faults = Faults()
    installation.run("sync")
    assert installation.members("vip") == set(members[20:])
    assert held(installation) == []


def test_a_hold_whose_key_gave_its_name_away_can_be_decided(
    installation: Installation, warehouse: Warehouse
) -> None:
    for number in range(MANY):
        warehouse.user(f"u{number:02}", ago=20, **{"Big Spender": "true"})
    installation.run("sync")
    warehouse.lose("Big Spender", [f"u{number:02}" for number in range(25)])
    installation.run("sync", "--full", exit_code=3)
    warehouse.rename("Big Spender", "big_spender")
    for number in range(MANY):
        warehouse.say(f"u{number:02}", "big_spender", "true", ago=0.5)
    installation.run("runs", "approve", "--yes", "2")
    assert len(installation.members("big_spender")) == MANY
    assert held(installation) == []


def test_nothing_is_decided_twice(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "approve", "--yes", str(run))
    for word in ("approve", "reject"):
        refused = installation.run("runs", word, str(run), exit_code=(1, 2))
        assert len(refused.stderr.strip().splitlines()) == 1
    refused = installation.run("runs", "lift", str(run), exit_code=(1, 2))
    assert len(refused.stderr.strip().splitlines()) == 1
    installation.run("runs", "approve", "--yes", "1", exit_code=(1, 2))
    installation.run("runs", "approve", "--yes", "99", exit_code=(1, 2))


# -- calls


def test_a_call_does_not_get_around_a_hold(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    hold(installation, warehouse, members[:20])
    told = calls.take(installation.config, calls.membership("u00", "vip", False))
    assert told["dropped: held"] == 1
    installation.run("sync", exit_code=3)
    assert installation.members("vip") == set(members)


def test_a_call_that_says_the_opposite_takes_it_back(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    calls.take(installation.config, calls.membership("u00", "vip", True))
    installation.run("runs", "approve", "--yes", str(run))
    assert installation.members("vip") == {"u00", *members[20:]}


def test_a_call_after_a_rejection_is_something_new(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    installation.run("runs", "reject", "--yes", str(run))
    calls.take(installation.config, calls.membership("u00", "vip", False))
    installation.run("sync")
    assert installation.members("vip") == set(members) - {"u00"}


def test_a_call_of_another_audience_passes(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    hold(installation, warehouse, members[:20])
    calls.take(installation.config, calls.membership("u00", "other", False))
    installation.run("sync", exit_code=3)
    assert installation.members("other") == set(members) - {"u00"}


def test_an_approval_covers_what_its_run_saw_and_nothing_that_came_since(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    run = hold(installation, warehouse, members[:20])
    warehouse.lose("vip", members[20:])
    installation.run("sync", "--full", exit_code=3)
    installation.run("runs", "approve", "--yes", str(run), exit_code=3)
    assert installation.members("vip") == set(members[20:])
    assert held(installation) == ["vip"]


def test_a_partial_run_ends_a_hold_of_which_engage_takes_everything_back(
    installation: Installation, warehouse: Warehouse, members: list[str]
) -> None:
    hold(installation, warehouse, members[:20])
    for customer_id in members[:20]:
        warehouse.say(customer_id, "vip", "true", ago=0.01)
    assert installation.json("sync")["kind"] == "incremental"
    assert held(installation) == []
    assert installation.members("vip") == set(members)
