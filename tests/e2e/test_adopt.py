"""Taking over from Segment's hosted destination: the report before, and what it spares after."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from state.history import seal
from syncer.sandbox.faults import Faults
from syncer.sync import parity_join
from tests.support import hosted
from tests.support.calls import identify, take
from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

COMPUTED = 'audiences = ["vip", "gold", "left", "j_o_x__step", "Big Spender"]\n' + (
    'computed_traits = ["total_*", "plan", "logins", "phone", "username", "website", "avatar"]'
)

Record = dict[str, Any]


def write(installation: Installation, record: Record) -> None:
    """The hosted destination, or another one, writes this customer."""
    stored = {"id": record["customerId"], **deepcopy(record)}
    installation.amberflo.customers[record["customerId"]] = stored


def lose_state(installation: Installation) -> None:
    for path in installation.folder.glob("syncer.db*"):
        path.unlink()


def say(warehouse: Warehouse, call: Record) -> None:
    """Segment has a call's traits, as Profiles Sync writes them."""
    traits = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in call["traits"].items()
    }
    warehouse.user(call["userId"], **traits)


@pytest.fixture
def population(installation: Installation, warehouse: Warehouse) -> list[Record]:
    """The customer of the documentation and a hundred more, in Segment and by its rules there."""
    installation.configure(engage=COMPUTED)
    calls = [hosted.IDENTIFY]
    assert hosted.customer(hosted.IDENTIFY) == hosted.CUSTOMER
    for number in range(100):
        traits = {
            "name": f"User {number}",
            "email": f"u{number}@example.com",
            "vip": number % 2 == 0,
            "gold": True,
            "j_o_x__step": number % 3 == 0,
            "total_spent": number + 0.5,
            "plan": ["basic/monthly", "a|b", "true", "12"][number % 4],
        }
        calls.append({"type": "identify", "userId": f"u{number:03}", "traits": traits})
    # Who is in no audience and has no value is none of ours, here as there.
    calls.append({"type": "identify", "userId": "out", "traits": {"vip": False}})
    with warehouse.db:
        warehouse.db.execute("BEGIN")
        for call in calls:
            say(warehouse, call)
    for call in calls:
        write(installation, hosted.customer(call))
    installation.amberflo.reset_stats()
    return calls


@pytest.fixture(params=["pages", "list", "one by one", "text"])
def shown(request: pytest.FixtureRequest, installation: Installation) -> str:
    """How much Amberflo shows in its lists, and as what it stores values."""
    shown = str(request.param)
    installation.amberflo.paging_traits = shown in ("pages", "text")
    installation.amberflo.list_traits = shown != "one by one"
    return shown


def test_the_report_is_empty_where_the_hosted_destination_wrote_by_its_rules(
    installation: Installation, population: list[Record], shown: str
) -> None:
    if shown == "text":
        for record in installation.amberflo.customers.values():
            record["traits"] = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in record["traits"].items()
            }
    before = deepcopy(installation.amberflo.customers)
    document = installation.json("adopt", "--customers")
    assert document["parity"]["good"]
    assert document["parity"]["customers"] == {
        **dict.fromkeys(("differ", "missing", "by_list", "recent", "unknown"), 0),
        **dict.fromkeys(("compared", "equal"), 101),
    }
    assert document["differences"] == document["missing"] == document["unknown"] == []
    assert document["parity"]["spellings"] == []
    sums = {row["trait"]: row for row in document["parity"]["traits"]}
    assert sums["vip"] | {"trait": ""} == {
        **dict.fromkeys(("differ", "missing", "unexpected"), 0),
        **{"trait": "", "equal": 100, "examples": []},
    }
    assert (sums["avatar"]["equal"], sums["customerName"]["equal"]) == (1, 101)
    assert installation.puts() == {}
    assert installation.amberflo.customers == before
    assert not (installation.folder / "syncer.db").exists(), "nothing is written here either"
    if shown == "pages":
        assert "nothing differs" in installation.run("adopt").stderr
        run = installation.json("adopt", "--apply")["run"]
        assert (run["kind"], run["due"], run["already_right"]) == ("adopt", 101, 101)
        installation.amberflo.reset_stats()
        assert installation.json("sync")["due"] == 0
        assert sum(installation.amberflo.stats()["requests"].values()) == 1, "the newest customers"
        installation.run("verify")


#: What is wrong with five customers each, and what the report then says of one, given its record.
PLANTED: list[tuple[str, Callable[[Record], object], str, Any, Any]] = [
    # what is done to the record of u<n>, trait, by Engage, at Amberflo ("…": the record's own)
    ("an audience", lambda record: record["traits"].update(gold=False), "gold", True, False),
    ("a value", lambda record: record["traits"].update(total_spent=1e6), "total_spent", ..., 1e6),
    ("lost", lambda record: record["traits"].pop("gold"), "gold", True, None),
    ("a member who left", lambda record: record["traits"].update(left=True), "left", None, True),
    ("a value that is gone", lambda record: record["traits"].update(phone="1"), "phone", None, "1"),
    ("a name", lambda record: record.update(customerName="X"), "customerName", ..., "X"),
    ("an email", lambda record: record.update(customerEmail="x@y"), "customerEmail", ..., "x@y"),
]


def plant(installation: Installation, warehouse: Warehouse) -> dict[str, list[tuple[Any, ...]]]:
    """Forty customers that differ, in every way; return what differs of each."""
    warehouse.user("keeps", left="true")
    write(installation, {"customerId": "keeps", "customerName": "keeps", "traits": {"left": True}})
    customers, planted = installation.amberflo.customers, dict[str, list[tuple[Any, ...]]]()
    for kind, (_, change, trait, by_engage, at_amberflo) in enumerate(PLANTED):
        for number in range(5):
            customer_id = f"u{2 * (5 * kind + number):03}"
            record = customers[customer_id]
            own = {**record, **record["traits"]}.get(trait)
            change(record)
            planted[customer_id] = [(trait, own if by_engage is ... else by_engage, at_amberflo)]
    for number in range(90, 95):
        record = customers.pop(f"u{number:03}")
        fields = {"customerName": record["customerName"], "customerEmail": record["customerEmail"]}
        all_of_it = {**record["traits"], **fields}
        planted[f"u{number:03}"] = [(name, value, None) for name, value in all_of_it.items()]
    assert len(planted) == 40
    return planted


def test_forty_planted_differences_are_shown_and_only_they_are_sent(
    installation: Installation, warehouse: Warehouse, population: list[Record]
) -> None:
    planted = plant(installation, warehouse)
    write(installation, {"customerId": "s", "customerName": "s", "traits": {"Total Spent": 1}})
    document = installation.json("adopt", "--customers", exit_code=1)
    by_customer: dict[str, set[tuple[Any, ...]]] = {}
    for row in document["differences"]:
        drift = (row["trait"], _text(row["expected"]), _text(row["actual"]))
        by_customer.setdefault(row["customer_id"], set()).add(drift)
    assert by_customer == {
        customer_id: {(trait, _text(expected), _text(actual)) for trait, expected, actual in rows}
        for customer_id, rows in planted.items()
    }
    assert document["missing"] == [f"u{number:03}" for number in range(90, 95)]
    assert document["unknown"] == document["parity"]["unknown_examples"] == ["s"]
    counts = document["parity"]["customers"]
    assert (counts["compared"], counts["equal"], counts["differ"]) == (102, 62, 35)
    sums = {row["trait"]: row for row in document["parity"]["traits"]}
    parts = [
        [sums[trait][part] for part in ("differ", "missing", "unexpected")]
        for trait in ("gold", "total_spent", "left", "phone")
    ]
    assert parts == [[5, 10, 0], [5, 5, 0], [0, 0, 5], [0, 0, 5]]
    assert document["parity"]["spellings"] == [
        {"trait": "total_spent", "key": "total_spent", "there": "Total Spent", "customers": 1}
    ]
    said = installation.run("adopt", "--customers", exit_code=1).stdout
    assert sum(" at Amberflo, " in line for line in said.splitlines()) == 35 + 5 * 7
    before = deepcopy(installation.amberflo.customers)

    run = installation.json("adopt", "--apply")["run"]
    assert (run["state"], run["due"], run["already_right"]) == ("done", 62, 62)
    assert (installation.puts(), installation.amberflo.customers) == ({}, before)
    assert {row["customer_id"] for row in _undelivered(installation)} == set(planted)
    differing = installation.json("diff", "--amberflo", "--customers")
    assert {row["customer_id"] for row in differing["differences"]} == set(planted)

    installation.amberflo.reset_stats()
    assert installation.json("sync")["due"] == 40
    assert installation.puts() == dict.fromkeys(planted, 1)
    requests = installation.amberflo.stats()["requests"]
    assert sum(requests.values()) <= 1 + 3 * 40, requests
    after = installation.amberflo.customers
    assert {
        customer_id: after[customer_id] for customer_id in after if customer_id not in planted
    } == {customer_id: before[customer_id] for customer_id in before if customer_id not in planted}
    assert installation.json("verify")["extra"] == ["out", "s"]
    assert installation.json("diff", "--amberflo")["parity"]["good"]


def _text(value: Any) -> str | None:
    """A value as text: "12" of Segment is 12, and they are one value there."""
    return None if value is None else json.dumps(value).strip('"')


def _undelivered(installation: Installation) -> list[Record]:
    rows: list[Record] = installation.json("audit", "undelivered")["changes"]
    return rows


def test_a_list_convicts_nobody(
    installation: Installation, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lags, and a page that moved leaves a customer out."""
    warehouse.users(4, vip="true")
    for customer_id in ("u00", "u01", "u02", "u03"):
        write(
            installation,
            {"customerId": customer_id, "customerName": customer_id, "traits": {"vip": True}},
        )
    customers = installation.amberflo.customers
    stale = [deepcopy(record) for id_, record in customers.items() if id_ != "u02"]
    stale[0]["traits"] = {"vip": False}
    stale[1]["traits"] = {}
    monkeypatch.setattr(installation.amberflo, "_listed", lambda: stale)
    customers["u03"].update(traits={"vip": False}, updateTime=int(time.time() * 1000))
    stale[2].update(customers["u03"])
    counts = installation.json("adopt", exit_code=1)["parity"]["customers"]
    assert (counts["equal"], counts["differ"], counts["missing"]) == (3, 1, 0)
    assert (counts["by_list"], counts["recent"]) == (0, 1)
    assert (
        "1 of those that differ changed at Amberflo"
        in installation.run("adopt", exit_code=1).stdout
    )
    with monkeypatch.context() as few:
        few.setattr(parity_join, "ALONE", 1)
        counts = installation.json("adopt", exit_code=1)["parity"]["customers"]
        assert (counts["equal"], counts["by_list"]) == (1, 3), "who is beyond the bound is told"
    assert installation.json("adopt", "--apply")["run"]["already_right"] == 3


def test_an_exit_later_takes_away_ours_and_nothing_of_others(
    installation: Installation, warehouse: Warehouse
) -> None:
    installation.configure(engage='computed_traits = ["total_*"]')
    warehouse.user("u1", **{"Big Spender": "true", "total_a": "5"})
    warehouse.user("u2", **{"Big Spender": "true", "total_a": "5"})
    for customer_id in ("u1", "u2"):
        # The hosted destination knows the key alone, others wrote the rest.
        traits = {"Big Spender": True, "plan": "pro", "stripeId": "cus_1", "total_a": 5}
        write(
            installation, {"customerId": customer_id, "customerName": customer_id, "traits": traits}
        )
    write(installation, {"customerId": "x", "customerName": "x", "traits": {"total_a": 1}})
    customers = installation.amberflo.customers
    customers["u1"]["traits"]["big_spender"] = "true"
    document = installation.json("adopt", exit_code=1)["parity"]
    assert document["spellings"] == [
        {"trait": "big_spender", "key": "Big Spender", "there": "Big Spender", "customers": 2}
    ]
    said = installation.run("adopt", exit_code=1).stdout
    assert "big_spender: the hosted destination spells it 'Big Spender'; 2 customers" in said
    installation.run("adopt", "--apply")
    warehouse.say("u1", "Big Spender", "false", ago=0.1)
    warehouse.lose("total_a", ["u1"])
    installation.run("sync", "--full")
    theirs = {"Big Spender": True, "plan": "pro", "stripeId": "cus_1"}
    assert customers["u1"]["traits"] == {**theirs, "big_spender": False}
    assert customers["u2"]["traits"] == {**theirs, "big_spender": True, "total_a": 5}
    assert customers["x"]["traits"] == {"total_a": 1}
    installation.run("traits", "release", "Big Spender", "--yes")
    installation.run("sync")
    assert customers["u1"]["traits"]["big_spender"] is True, "what was there before us comes back"
    assert "big_spender" not in customers["u2"]["traits"]


def test_what_was_adopted_is_on_record(installation: Installation, warehouse: Warehouse) -> None:
    warehouse.user("u1", vip="true", name="Ada")
    write(installation, {"customerId": "u1", "customerName": "Ada", "traits": {"vip": "true"}})
    installation.run("adopt", "--apply")
    (entry,) = installation.json("audit", "customer", "u1")["changes"]
    assert (entry["before"], entry["after"], entry["source"]) == (True, True, "adopted")
    assert entry["delivered_at"] == entry["recorded_at"]
    said = installation.run("audit", "customer", "u1").stdout
    assert f"adopted at {entry['recorded_at']} by run 1, found equal" in said
    assert "found equal" in installation.run("why", "u1", "vip").stdout
    assert installation.json("audit", "audience", "vip")["entered"]
    assert installation.json("runs")[0]["kind"] == "adopt"
    installation.run("audit", "seal")
    installation.run("state", "check")
    # What others change later is found and corrected as if this program had written it.
    installation.amberflo.customers["u1"]["traits"]["vip"] = False
    installation.run("verify", "--repair")
    assert installation.values("vip") == {"u1": True}


def test_who_may_not_adopt(
    installation: Installation, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.users(3, vip="true")
    for customer_id in ("u00", "u01"):
        write(
            installation,
            {"customerId": customer_id, "customerName": customer_id, "traits": {"vip": True}},
        )
    customers = deepcopy(installation.amberflo.customers)

    # Where the commit breaks nothing is adopted, and it can be done again.
    def break_off(*_: object) -> None:
        raise sqlite3.OperationalError("the disk is gone")

    with monkeypatch.context() as breaking:
        breaking.setattr(seal, "seal", break_off)
        with pytest.raises(sqlite3.OperationalError):
            installation.run("adopt", "--apply")
    assert installation.json("runs")[0]["state"] == "failed"
    assert installation.json("status")["backlog"]["customers"] == 0
    installation.amberflo.faults = Faults.parse("503=1")
    installation.configure(patience="0.3s")
    for apply in ([], ["--apply"]):
        said = installation.run("adopt", *apply, exit_code=1)
        assert "sent no usable answer" in said.stderr
    installation.amberflo.faults = Faults()
    assert installation.json("adopt", "--apply")["run"]["already_right"] == 2
    again = installation.run("adopt", "--apply", exit_code=1).stderr
    assert "error: run 3 adopted what Amberflo held at " in again
    installation.run("sync")
    said = installation.run("adopt", "--apply", exit_code=1).stderr
    assert "this state has sent already (3 customers are acknowledged)" in said
    assert "nothing differs" in installation.run("adopt").stderr
    # What only a call told stays due: nobody compared it.
    lose_state(installation)
    installation.amberflo.customers.clear()
    installation.amberflo.customers.update(customers)
    take(installation.config, identify("u02", name="Grace"))
    assert installation.json("adopt", "--apply")["run"]["already_right"] == 2
    assert installation.json("status")["backlog"]["customers"] == 1
    lose_state(installation)
    installation.configure(engage='audiences = ["none"]')
    said = installation.run("adopt", exit_code=1)
    assert "Engage has nobody to compare" in said.stderr


def test_what_the_guard_holds_is_not_adopted(
    installation: Installation, warehouse: Warehouse
) -> None:
    """With `first_contact = "hold"` a name of others stays theirs until somebody decides."""
    installation.configure(engage='computed_traits = ["total_*"]\nfirst_contact = "hold"')
    warehouse.users(3, vip="true", gold="true", total_a="5")
    for customer_id, total in (("u00", "5"), ("u01", 9), ("u02", 5)):
        traits = {"vip": True, "gold": True, "total_a": total}
        write(
            installation, {"customerId": customer_id, "customerName": customer_id, "traits": traits}
        )
    installation.amberflo.customers["u01"]["traits"]["gold"] = "bright"
    document = installation.json("adopt", "--apply", exit_code=3)
    assert document["run"]["state"] == "held"
    assert document["parity"]["customers"]["equal"] == 2
    assert document["run"]["already_right"] == 1, 'of "5" and 5 a person decides, too'
    installation.run("sync", exit_code=3)
    assert installation.values("gold") == {"u00": True, "u01": "bright", "u02": True}
    installation.run("runs", "approve", "2", "--yes")
    assert installation.members("gold") == {"u00", "u01", "u02"}
