"""The guard and customers whose writes Amberflo may have taken without our learning of it.

An exit is judged once: by the run that decides it, whatever Amberflo shows of it later.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

#: Of so many members nine may leave, and 13 may not.
MANY = 40


def leave(warehouse: Warehouse, who: list[str], key: str = "vip", *, ago: float = 1.0) -> None:
    for customer_id in who:
        warehouse.say(customer_id, key, "false", ago=ago)


def held(installation: Installation) -> list[str]:
    return [hold["key"] for hold in installation.json("status")["held"]]


def leaving(installation: Installation, run: int) -> list[int]:
    """How many leave by each hold of a run."""
    holds: list[dict[str, Any]] = installation.json("runs", "show", str(run))["holds"]
    return [hold["leaving"] for hold in holds]


def taken(installation: Installation, ids: list[str], **traits: Any) -> None:
    """Amberflo has taken these customers so, and we did not learn of it."""
    for customer_id in ids:
        record = {"customerId": customer_id, "customerName": customer_id, "traits": dict(traits)}
        installation.amberflo.customers[customer_id] = record


def changes_of(installation: Installation, customer_id: str, key: str) -> list[tuple[int, Any]]:
    document = installation.json("audit", "customer", customer_id, "--key", key)
    return [(change["run"], change["after"]) for change in document["changes"]]


def test_it_takes_back_no_exit_that_an_earlier_run_let_through(
    installation: Installation, warehouse: Warehouse
) -> None:
    """Amberflo has memberships and values that it took without our learning of it; the exits of
    some are committed and still due when a hold comes."""
    installation.configure(patience="1s")
    spent = "total_revenue_usd"
    ids = warehouse.users(MANY, ago=40, vip="true", other="true", **{spent: "5"})
    installation.amberflo.odd = {"*": "PUT 503"}
    installation.run("sync", exit_code=1)
    taken(installation, ids, vip=True, other=True, **{spent: 5})
    leave(warehouse, ids[:5])
    warehouse.lose(spent, ids[:5])
    installation.run("sync", "--full", exit_code=1)

    installation.amberflo.odd = {}
    leave(warehouse, ids[5:25])
    warehouse.lose(spent, ids[5:25])
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(ids[5:])
    assert installation.values(spent).keys() == set(ids[5:])
    assert leaving(installation, 3) == [20, 20]
    assert changes_of(installation, ids[0], "vip") == [(1, True), (2, False)]
    assert changes_of(installation, ids[0], spent) == [(1, 5), (2, None)]


def test_it_takes_back_no_exit_of_a_customer_that_amberflo_refused(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(patience="3s")
    ids = warehouse.users(MANY, ago=40, vip="true", other="true")
    installation.amberflo.odd = dict.fromkeys(ids[:5], "PUT 400")
    installation.run("sync", exit_code=1)
    taken(installation, ids[:5], vip=True, other=True)
    leave(warehouse, ids[:5])
    leave(warehouse, ids[30:32], "other")
    installation.run("sync", exit_code=(0, 1))

    installation.amberflo.odd = {}
    leave(warehouse, ids[5:25])
    installation.run("sync", "--full", exit_code=3)
    assert changes_of(installation, ids[0], "vip") == [(1, True), (2, False)]
    installation.run("failures", "retry", "--all")
    assert installation.members("vip") == set(ids[5:])


def test_what_others_had_at_amberflo_is_judged_also_after_a_run_that_could_not_look(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(patience="1s")
    warehouse.users(3, ago=40, vip="true", other="true")
    installation.run("sync")
    others = [f"b{number:02}" for number in range(MANY)]
    for person in others:
        warehouse.person(person, 9.0, vip="false", other="true")
    taken(installation, others, vip=True)  # by somebody else
    installation.amberflo.odd = {"*": "503"}
    installation.run("sync", "--full", exit_code=1)
    installation.amberflo.odd = {}
    installation.run("sync", "--full", exit_code=3)
    assert held(installation) == ["vip"]
    assert set(others) <= installation.members("vip")


@pytest.mark.parametrize("member", [1, "TRUE", "true"])
def test_others_may_write_a_membership_in_any_form(
    installation: Installation, warehouse: Warehouse, member: Any
) -> None:
    installation.configure(patience="1s")
    ids = warehouse.users(MANY, ago=40, vip="true", other="true")
    installation.amberflo.odd = {"*": "PUT 503"}
    installation.run("sync", exit_code=1)
    taken(installation, ids[:5], vip=member, other=True)
    taken(installation, ids[5:], vip=True, other=True)
    leave(warehouse, ids[:5])
    installation.run("sync", "--full", exit_code=1)

    installation.amberflo.odd = {}
    leave(warehouse, ids[5:25])
    installation.run("sync", "--full", exit_code=3)
    assert leaving(installation, 3) == [20]
    assert installation.members("vip") == set(ids[5:])


def test_what_was_released_and_is_ours_again_is_judged(
    installation: Installation, warehouse: Warehouse
) -> None:
    def choose(*audiences: str) -> None:
        installation.configure(patience="1s", engage=f"audiences = {list(audiences)}")

    choose("vip", "other")
    ids = warehouse.users(MANY, ago=40, vip="true", other="true")
    installation.amberflo.odd = {"*": "PUT 503"}
    installation.run("sync", exit_code=1)
    taken(installation, ids, vip=True, other=True)
    choose("other")
    installation.run("traits", "release", "vip", "--yes", exit_code=(0, 1))
    choose("vip", "other")
    leave(warehouse, ids)
    installation.run("sync", "--full", exit_code=3)
    assert held(installation) == ["vip"]
    installation.amberflo.odd = {}
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == set(ids)


def brought_in_by_rows(installation: Installation, warehouse: Warehouse) -> list[str]:
    """Members since an incremental run, which asks nobody what others had at Amberflo."""
    installation.configure(patience="1s")
    warehouse.user("a0", ago=40, vip="true", other="true")
    installation.run("sync")
    ids = warehouse.users(MANY, ago=1, vip="true", other="true")
    taken(installation, ids, vip=False)
    installation.amberflo.odd = {"*": "PUT 503"}
    installation.run("sync", exit_code=1)
    return ids


def test_members_that_leave_do_so_whatever_a_list_shows_that_lags(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = brought_in_by_rows(installation, warehouse)
    leave(warehouse, ids, ago=0.5)
    counted = installation.json("diff", "--full", "--amberflo")["traits"]
    assert [trait["exited"] for trait in counted if trait["key"] == "vip"] == [MANY]
    installation.run("sync", "--full", exit_code=1)
    assert held(installation) == ["vip"]


def test_a_write_that_arrives_after_the_exit_is_no_second_exit(
    installation: Installation, warehouse: Warehouse
) -> None:
    ids = brought_in_by_rows(installation, warehouse)
    leave(warehouse, ids[:5], ago=0.5)
    installation.run("sync", "--full", exit_code=1)
    taken(installation, ids, vip=True, other=True)  # by the first of our writes
    leave(warehouse, ids[5:25], ago=0.3)
    installation.run("sync", "--full", exit_code=1)
    assert leaving(installation, 4) == [20]
    installation.amberflo.odd = {}
    installation.run("sync", "--full", exit_code=3)
    assert installation.members("vip") == {"a0", *ids[5:]}
