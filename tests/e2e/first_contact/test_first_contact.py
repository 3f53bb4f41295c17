"""What Amberflo has and the state does not know: after a lost state, with an older copy of it, or
where the hosted destination ran before."""

from __future__ import annotations

import pytest

from syncer.sandbox.faults import Faults
from tests.e2e.first_contact.helpers import copy_state, lose_state, restore, seed
from tests.support.calls import identify, take
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse


@pytest.fixture(params=["pages", "list", "one by one"])
def listing(request: pytest.FixtureRequest, installation: Installation) -> str:
    """How much Amberflo shows in its lists."""
    shown = str(request.param)
    installation.amberflo.paging_traits = shown == "pages"
    installation.amberflo.list_traits = shown != "one by one"
    return shown


def test_who_left_while_the_state_was_lost_is_corrected(
    installation: Installation, warehouse: Warehouse, listing: str
) -> None:
    warehouse.users(30, vip="true")
    installation.run("sync")
    lose_state(installation)
    warehouse.say("u00", "vip", "false")
    run = installation.json("sync")
    assert run["kind"] == "initial"
    assert installation.values("vip")["u00"] is False
    assert len(installation.members("vip")) == 29
    installation.run("verify")
    (entry,) = installation.json("audit", "customer", "u00")["changes"]
    assert (entry["before"], entry["after"], entry["source"]) == (True, False, "amberflo")


def test_who_vanished_from_an_audience_while_the_state_was_lost(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Engage knows the customer and has no row of the audience."""
    warehouse.users(30, vip="true", gold="true")
    installation.run("sync")
    lose_state(installation)
    warehouse.lose("vip", ["u00"])
    warehouse.lose("gold", ["u00"])
    warehouse.say("u00", "name", "Ada")
    installation.run("sync")
    assert "u00" not in installation.members("vip") | installation.members("gold")
    assert len(installation.members("vip")) == 29


def test_who_lost_every_row_while_the_state_was_lost(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Engage knows the customer by an identifier alone."""
    warehouse.users(30, vip="true")
    installation.run("sync")
    lose_state(installation)
    warehouse.lose("vip", ["u00"])
    seed(installation, "stranger", vip=True)
    run = installation.json("sync")
    assert installation.values("vip")["u00"] is False
    assert installation.values("vip")["stranger"] is True, "of whom Engage has no identifier"
    assert sum(row["exited"] for row in run["traits"]) == 1
    assert installation.run("verify")
    assert installation.json("sync", "--full")["due"] == 0


def test_a_member_of_the_hosted_destination_who_left(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Values as that one wrote them: as text."""
    warehouse.users(30, vip="true")
    warehouse.say("u00", "vip", "false")
    seed(installation, "u00", vip="true", stripeId="cus_1")
    seed(installation, "u01", vip="true")
    installation.run("sync")
    assert installation.values("vip")["u00"] is False
    assert installation.amberflo.customers["u00"]["traits"]["stripeId"] == "cus_1"
    assert installation.values("vip")["u01"] == "true", "which is right as it stands"


def test_such_corrections_are_exits_for_the_guard(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(40, vip="true")
    installation.run("sync")
    lose_state(installation)
    for customer_id in ids[:20]:
        warehouse.say(customer_id, "vip", "false")
    installation.run("sync", exit_code=3)
    assert installation.members("vip") == set(ids)
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(ids)
    installation.run("runs", "approve", "--yes", "1")
    assert installation.members("vip") == set(ids[20:])


def test_one_customer_is_not_sent_again_before_all_are_compared(
    installation: Installation, warehouse: Warehouse
) -> None:
    """A call made another one known meanwhile: of whom nobody has compared what Amberflo has."""
    warehouse.users(3, vip="true")
    installation.run("sync")
    lose_state(installation)
    take(installation.config, identify("u01", name="Grace"))
    refused = installation.run("resync", "--customer", "u00", "--yes", exit_code=1)
    assert "syncer sync" in refused.stderr
    assert len(installation.members("vip")) == 3
    installation.run("sync")
    assert len(installation.members("vip")) == 3
    assert installation.holds()["u01"]["customerName"] == "Grace"


def test_customers_that_engage_does_not_know_are_left_alone(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(3, vip="true")
    seed(installation, "stranger", vip=True)
    installation.run("sync")
    installation.run("sync", "--full")
    assert installation.values("vip")["stranger"] is True
    assert "stranger" not in installation.puts()


def test_a_first_run_that_cannot_read_amberflo_changes_nothing(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(patience="1s")
    warehouse.users(3, vip="true")
    installation.amberflo.faults = Faults.parse("500=1")
    failed = installation.run("sync", exit_code=1)
    assert "Traceback" not in failed.stderr
    installation.amberflo.faults = Faults()
    assert installation.json("sync")["kind"] == "initial"
    assert len(installation.members("vip")) == 3


@pytest.mark.parametrize("answer", ["302", "400", "404", "html"])
def test_a_first_run_waits_for_the_list_of_those_who_are_there(
    installation: Installation, warehouse: Warehouse, answer: str
) -> None:
    """Whether Amberflo has no list or something in between refuses all for a while looks alike."""
    warehouse.users(3, vip="true")
    seed(installation, "gone", vip=True)
    seed(installation, "u00", vip="set by the CRM")
    installation.configure(
        engage='computed_traits = ["total_revenue_*"]\nfirst_contact = "hold"', patience="1s"
    )
    installation.amberflo.odd = {"*": answer}
    failed = installation.run("sync", exit_code=1)
    assert "lists no customers" in failed.stderr or "no usable answer" in failed.stderr
    installation.amberflo.odd = {}
    run = installation.json("sync", exit_code=3)
    assert (run["kind"], run["held"] > 0) == ("initial", True)
    assert installation.values("vip")["u00"] == "set by the CRM"


def test_a_later_comparison_goes_on_without_amberflo(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(patience="1s")
    warehouse.users(3, vip="true")
    installation.run("sync")
    warehouse.say("u00", "vip", "false")
    installation.amberflo.faults = Faults.parse("500=1")
    installation.run("sync", "--full", exit_code=1)
    installation.amberflo.faults = Faults()
    installation.run("sync")
    assert installation.members("vip") == {"u01", "u02"}


def test_a_value_of_another_system_goes_into_the_history(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.user("u1", gold="true")
    warehouse.user("u2", vip="true", gold="true")
    seed(installation, "u1", vip="set by the CRM", stripeId="cus_1")
    seen = installation.json("diff", "--amberflo")["amberflo"]
    assert seen["traits"][0]["trait"] == "vip"
    assert seen["traits"][0]["examples"][0]["customer_id"] == "u1"
    assert installation.puts() == {}

    installation.run("sync")
    record = installation.amberflo.customers["u1"]
    assert record["traits"].get("vip") in (None, False)
    assert record["traits"]["stripeId"] == "cus_1"
    entries = installation.json("audit", "customer", "u1")["changes"]
    (entry,) = [change for change in entries if change["trait"] == "vip"]
    assert (entry["before"], entry["source"]) == ("set by the CRM", "amberflo")


def test_first_contact_may_wait_for_a_decision(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(engage='first_contact = "hold"')
    warehouse.user("u1", gold="true")
    warehouse.user("u2", vip="true", gold="true")
    seed(installation, "u1", vip="set by the CRM")
    installation.run("sync", exit_code=3)
    assert installation.values("vip")["u1"] == "set by the CRM"
    assert installation.values("gold") == {"u1": True, "u2": True}
    installation.run("sync", "--full", exit_code=3)
    assert installation.values("vip")["u1"] == "set by the CRM"
    installation.run("runs", "approve", "--yes", "1")
    assert installation.values("vip").get("u1") in (None, False)


def test_a_trait_that_becomes_ours_later_meets_what_is_there(
    installation: Installation, warehouse: Warehouse
) -> None:
    """A new key makes a run compare all, so its first contact is recorded."""
    warehouse.users(3, ago=40, gold="true")
    seed(installation, "u00", vip="mine")
    installation.run("sync")
    assert installation.values("vip")["u00"] == "mine"
    warehouse.say("u01", "vip", "true")
    assert installation.json("sync")["kind"] == "reconcile"
    assert installation.values("vip").get("u00") in (None, False)
    entries = installation.json("audit", "customer", "u00")["changes"]
    assert [entry["before"] for entry in entries if entry["trait"] == "vip"] == ["mine"]


@pytest.mark.parametrize("rows_later", [False, True])
def test_an_older_copy_of_the_state_puts_no_old_value_back(
    installation: Installation, warehouse: Warehouse, rows_later: bool
) -> None:
    warehouse.users(20, ago=40, vip="true")
    installation.run("sync")
    copy = copy_state(installation, "old.db")
    warehouse.say("u00", "vip", "false", ago=5)
    warehouse.user("late", ago=5, vip="true")
    installation.run("sync")
    restore(installation, copy)
    if rows_later:
        warehouse.say("u00", "vip", "true", ago=0.1)
    full = installation.run("sync", "--full")
    assert installation.values("vip")["u00"] is rows_later
    assert installation.values("vip")["late"] is True
    assert "older copy" in full.stdout + full.stderr
    installation.run("verify")


def test_repair_compares_with_engage_first(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(20, ago=40, vip="true")
    installation.run("sync")
    copy = copy_state(installation, "old.db")
    warehouse.say("u00", "vip", "false", ago=5)
    installation.run("sync")
    restore(installation, copy)
    installation.run("verify", exit_code=1)
    installation.run("verify", "--repair", exit_code=(0, 1))
    assert installation.values("vip")["u00"] is False
    installation.run("verify")


def test_repair_sends_nothing_that_is_held(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(40, ago=40, vip="true")
    installation.run("sync")
    for customer_id in ids[:20]:
        warehouse.say(customer_id, "vip", "false")
    installation.run("sync", exit_code=3)
    installation.amberflo.customers["u00"]["traits"]["vip"] = "broken"
    installation.amberflo.customers["u30"]["traits"]["vip"] = "broken"
    installation.run("verify", "--repair", exit_code=(0, 1, 3))
    assert installation.values("vip")["u30"] is True
    assert installation.values("vip")["u00"] in ("broken", True)
    assert not {id_ for id_, value in installation.values("vip").items() if value is False}


def test_what_somebody_changed_at_amberflo_is_mended_by_a_comparison(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(5, ago=40, vip="true")
    installation.run("sync")
    installation.amberflo.customers["u00"]["traits"]["vip"] = False
    del installation.amberflo.customers["u01"]["traits"]["vip"]
    installation.run("sync", "--full")
    assert len(installation.members("vip")) == 5


def test_verify_judges_customers_that_only_amberflo_and_engage_know(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(5, ago=40, vip="true")
    warehouse.user("left", vip="false")
    installation.run("sync")
    seed(installation, "left", vip=True)
    seed(installation, "nobody", vip=True)
    document = installation.json("verify", exit_code=1)
    assert [drift["customer_id"] for drift in document["drifted"]] == ["left"]


def test_who_is_due_by_a_call_is_guarded_and_recorded_like_anybody(
    installation: Installation, warehouse: Warehouse
) -> None:
    """The state knows the customer by a call, and Amberflo was never told of it."""
    ids = warehouse.users(40, ago=40, gold="true")
    for customer_id in ids:
        seed(installation, customer_id, vip=True)
        warehouse.say(customer_id, "vip", "false" if customer_id < "u20" else "true", ago=30)
    take(installation.config, *(identify(id_, plan="pro") for id_ in ids[:20]))
    installation.run("sync", exit_code=3)
    assert installation.members("vip") == set(ids)
    installation.run("runs", "approve", "--yes", "1")
    assert installation.members("vip") == set(ids[20:])
    changes = installation.json("audit", "customer", "u25")["changes"]
    assert [
        (change["before"], change["source"]) for change in changes if change["trait"] == "vip"
    ] == [(True, "amberflo")]


def test_a_call_of_a_stranger_takes_no_membership_away(
    installation: Installation, warehouse: Warehouse
) -> None:
    """No comparison has said that the customer left."""
    warehouse.users(5, ago=40, vip="true")
    installation.run("sync")
    seed(installation, "stranger", vip=True)
    take(installation.config, identify("stranger", plan="pro"))
    installation.run("sync")
    installation.run("sync", "--full")
    assert installation.values("plan")["stranger"] == "pro"
    assert "stranger" in installation.members("vip")
    assert installation.json("verify")["drifted"] == []


def test_a_partial_run_takes_no_membership_away_that_only_amberflo_has(
    installation: Installation, warehouse: Warehouse
) -> None:
    warehouse.users(5, ago=40, vip="true", gold="true")
    installation.run("sync")
    seed(installation, "late", vip=True)
    warehouse.user("late", ago=1, gold="true")
    installation.run("sync")
    assert installation.values("gold")["late"] is True
    assert "late" in installation.members("vip")
    # A comparison of all tells that it left, and the history has it.
    installation.run("sync", "--full")
    assert installation.values("vip")["late"] is False
    last = installation.json("audit", "customer", "late")["changes"][-1]
    assert (last["before"], last["after"], last["source"]) == (True, False, "amberflo")


def test_an_older_copy_with_an_open_hold_bills_nobody_again(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = warehouse.users(40, ago=40, vip="true", beta="false")
    installation.run("sync")
    for customer_id in ids[:20]:
        warehouse.say(customer_id, "vip", "false", ago=5)
    installation.run("sync", exit_code=3)
    copy = copy_state(installation, "old.db")
    installation.run("runs", "approve", "--yes", "2")
    restore(installation, copy)
    installation.run("sync", "--full", exit_code=(0, 3))
    for customer_id in ids[:20]:
        warehouse.say(customer_id, "beta", "true", ago=1)
    installation.run("sync", exit_code=(0, 3))
    assert installation.members("vip") == set(ids[20:])
