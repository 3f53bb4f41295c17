"""`syncer verify` from end to end: what Amberflo holds against what it should hold."""

from __future__ import annotations

import random
import re
import socket
import sqlite3
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import orjson
import pytest

from syncer.amberflo import reader
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.verify.helpers import (
    AUDIENCE,
    FOREIGN,
    OTHER,
    Amberflo,
    Drifts,
    all_good,
    found_by,
    listed,
    rename,
)
from tests.support.installation import Installation


def plant(amberflo: Amberflo, synced: list[str]) -> tuple[list[str], Drifts]:
    """50 customers that are no more what they should be, in every way: who is missing, and all
    (customer, trait, expected, found)."""
    candidates = random.Random(3).sample(synced, len(synced))
    missing: list[str] = []
    drifts: Drifts = []

    def take(fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        chosen = next(
            customer_id for customer_id in candidates if fits(amberflo.customers[customer_id])
        )
        candidates.remove(chosen)
        return amberflo.customers[chosen]

    def change(record: dict[str, Any], trait: str, value: Any) -> None:
        at = record if trait.startswith("customer") else record["traits"]
        drifts.append((record["customerId"], trait, at.get(trait), value))
        if value is None:
            del at[trait]
        else:
            at[trait] = value

    def has(trait: str, value: object) -> Callable[[dict[str, Any]], bool]:
        return lambda record: record["traits"].get(trait) is value

    for _ in range(11):
        missing.append(take(lambda record: True)["customerId"])
        del amberflo.customers[missing[-1]]
    for value in [True, False] * 4:
        change(take(has(AUDIENCE, value)), AUDIENCE, not value)
    for _ in range(6):  # removed traits
        change(take(lambda record: AUDIENCE in record["traits"]), AUDIENCE, None)
    for _ in range(3):  # of ours there is nothing left
        record = take(lambda record: AUDIENCE in record["traits"])
        for trait in sorted(record["traits"].keys() - FOREIGN.keys()):
            change(record, trait, None)
    revenue = "total_revenue_180_days"
    for value in ("0", "12_345.67", 1e6, False, [1, 2]):
        change(take(lambda record: revenue in record["traits"]), revenue, value)
    for value in (True, False, "gold", 7):  # ours by name, but not the customer's
        change(take(lambda record: OTHER not in record["traits"]), OTHER, value)
    for value in ("Somebody Else", "", " ", "x", None):
        named = take(lambda record: record["customerName"] != record["customerId"])
        change(named, "customerName", value)
    for value in ("x@example.com", "", None):
        change(take(lambda record: record.get("customerEmail")), "customerEmail", value)
    for expected, value in ((True, "false"), (False, "true"), (True, 1), (False, 0)):
        change(take(has(AUDIENCE, expected)), AUDIENCE, value)
    record = take(has(AUDIENCE, True))
    traits = record["traits"]
    for trait in sorted(traits.keys() - FOREIGN.keys()):
        drifts.append((record["customerId"], trait, traits[trait], None))
    record["traits"] = "none"
    stored = take(has(AUDIENCE, True))["traits"]  # as a server may store it
    stored |= {AUDIENCE: "true"}
    record = take(lambda record: True)  # nobody's business but theirs
    record["traits"] |= {"stripeId": "cus_2", "new": "x"}
    record["description"] = "edited"
    assert len({*missing, *(drift[0] for drift in drifts)}) == 50
    return sorted(missing), sorted(drifts, key=lambda row: row[:2])


def test_finds_every_drift_and_repairs_it(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    all_good(installation, len(synced))
    before = deepcopy(installation.holds())
    missing, drifts = plant(amberflo, synced)
    amberflo.customers["somebody"] = {"customerId": "somebody", "customerName": "Else"}
    planted = deepcopy(installation.holds())

    document = found_by(installation, exit_code=1)
    assert document["missing"] == missing
    assert listed(document) == drifts
    assert document["extra"] == ["somebody"]
    assert document["checked"] == len(synced)
    for row in document["traits"]:
        assert row["drifted"] == sum(row["trait"] == trait for _, trait, _, _ in drifts)
    said = installation.run("verify", exit_code=1)
    lines = set(said.stdout.splitlines())
    assert {f"missing {id_}" for id_ in missing} <= lines
    assert sum(line.startswith("drifted ") for line in lines) == len(drifts)
    assert "`syncer verify --repair`" in said.stderr
    # A look writes nothing.
    assert installation.holds() == planted
    assert installation.puts() == {}

    said = installation.run("verify", "--repair", "--json")
    wrong = {*missing, *(drift[0] for drift in drifts)}
    assert f'"repaired": {len(wrong)}' in said.stdout
    # Engage says no more of this one than that it is not in it: Amberflo holds it so already.
    right = {drift[0] for drift in drifts if drift[1:] == (OTHER, None, False)}
    assert installation.puts() == dict.fromkeys(wrong - right, 1)
    assert set(re.findall(r"^repaired (\S+): ", said.stderr, re.MULTILINE)) == wrong
    all_good(installation, len(synced), extra=1)
    now = installation.holds()
    memberships = {(drift[0], drift[1]) for drift in drifts if isinstance(drift[3], bool)}
    for customer_id in synced:
        mine = before[customer_id]
        if customer_id in missing or planted[customer_id]["traits"] == "none":
            mine["traits"] = {k: v for k, v in mine["traits"].items() if k not in FOREIGN}
        elif customer_id not in wrong:
            mine = planted[customer_id]
        if (customer_id, OTHER) in memberships:  # who is said to be in, and is not, left
            mine["traits"][OTHER] = False
        assert now[customer_id] == mine
    # Nothing changed at Engage: the history has what was found at Amberflo, and when it was sent.
    with sqlite3.connect(installation.folder / "syncer.db") as state:
        newer = "SELECT count(*) FROM customer WHERE acked_at > (SELECT max(started_at) FROM run)"
        assert state.execute(newer).fetchone() == (len(wrong),)
        sources = state.execute("SELECT DISTINCT run, source FROM change ORDER BY run").fetchall()
        assert sources == [(1, None), (2, "amberflo")]
    state.close()


def test_one_customer(installation: Installation, amberflo: Amberflo, synced: list[str]) -> None:
    customer_id, _ = rename(amberflo, synced, 2)
    amberflo.customers["somebody"] = {"customerId": "somebody", "customerName": "Else"}
    document = found_by(installation, "--customer", customer_id, exit_code=1)
    assert (document["checked"], document["drifted"][0]["customer_id"]) == (1, customer_id)
    document = found_by(installation, "--customer", "somebody")
    assert (document["checked"], document["extra"]) == (0, ["somebody"])
    said = installation.run("verify", "--customer", "nobody", exit_code=1)
    assert said.stderr == ("error: the customer 'nobody' was never sent, and is not at Amberflo\n")
    assert found_by(installation, "--customer", customer_id, "--repair")["repaired"] == 1
    assert installation.puts() == {customer_id: 1}
    del amberflo.customers[customer_id]
    assert found_by(installation, "--customer", customer_id, exit_code=1)["missing"] == [
        customer_id
    ]


def test_in_every_way_that_amberflo_can_be_read(
    installation: Installation,
    amberflo: Amberflo,
    synced: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "BATCH", 70)
    missing, drifts = plant(amberflo, synced)
    amberflo.customers["somebody"] = {"customerId": "somebody", "customerName": "Else"}
    singles = len(missing) + len({drift[0] for drift in drifts})
    ways: list[tuple[dict[str, Any], dict[str, int]]] = [
        ({}, {"GET /customers/paging": 3}),
        ({"most": 70}, {"GET /customers/paging": 6}),
        ({"most": 100, "refuses_more": True}, {"GET /customers/paging": 6}),
        ({"most": 60, "refuses_more": True}, {"GET /customers/paging": 2 + 28}),
        ({"most": 70, "gives_last_page_for_ever": True}, {"GET /customers/paging": 6}),
        ({"most": 5, "refuses_more": True}, {"GET /customers/paging": 1, "GET /customers": 1}),
        ({"no_pages": True}, {"GET /customers/paging": 1, "GET /customers": 1}),
        ({"paging_traits": False}, {"GET /customers/paging": 2, "GET /customers": 1}),
        (
            {"paging_traits": False, "list_traits": False},
            {"GET /customers/paging": 5, "GET /customers": 1 + len(synced) - singles},
        ),
        (
            {"no_pages": True, "list_traits": False},
            {"GET /customers/paging": 1, "GET /customers": 2 + len(synced) - singles},
        ),
        (
            {"paging_traits": False, "no_list": True},
            {"GET /customers/paging": 5, "GET /customers": 1 + len(synced) - singles},
        ),
        (
            {"no_pages": True, "no_list": True},
            {"GET /customers/paging": 1, "GET /customers": 1 + len(synced) - singles},
        ),
    ]
    for switches, requests in ways:
        usual = {name: getattr(amberflo, name) for name in switches}
        for name, value in switches.items():
            setattr(amberflo, name, value)
        amberflo.reset_stats()
        document = found_by(installation, exit_code=1)
        assert (document["missing"], listed(document)) == (missing, drifts), switches
        unknown = switches.get("no_pages") and switches.get("no_list")
        assert document["extra"] == ([] if unknown else ["somebody"])
        requests["GET /customers"] = requests.get("GET /customers", 0) + singles
        assert amberflo.stats()["requests"] == requests, switches
        for name, value in usual.items():
            setattr(amberflo, name, value)


def test_pages_show_traits_where_only_some_have_none(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    emptied = [id_ for id_ in synced if amberflo.customers[id_]["traits"].keys() > FOREIGN.keys()]
    for customer_id in emptied[:20]:
        del amberflo.customers[customer_id]["traits"]
    document = found_by(installation, exit_code=1)
    assert {row["customer_id"] for row in document["drifted"]} == set(emptied[:20])
    requests = {"GET /customers/paging": 3, "GET /customers": 20}
    assert amberflo.stats()["requests"] == requests


@pytest.mark.parametrize("trait_values", ["native", "string"])
def test_on_postgresql_and_with_values_as_text(
    installation: Installation, amberflo: Amberflo, postgres_url: str, trait_values: str
) -> None:
    installation.configure(state=postgres_url, trait_values=trait_values)
    engage = EngageSandbox(installation.source_url, seed=3)
    engage.fill(200, 5)
    engage.close()
    installation.run("sync")
    all_good(installation, len(amberflo.customers))
    customer_id, record = next(
        (id_, record)
        for id_, record in sorted(amberflo.customers.items())
        if AUDIENCE in record["traits"]
    )
    good = record["traits"][AUDIENCE]
    true = good in (True, "true")
    # As text or not, as Amberflo stores it: that is no drift.
    record["traits"][AUDIENCE] = {"native": str(true).lower(), "string": true}[trait_values]
    all_good(installation, len(amberflo.customers))
    bad = {"native": not true, "string": str(not true).lower()}[trait_values]
    record["traits"][AUDIENCE] = bad
    document = found_by(installation, exit_code=1)
    assert listed(document) == [(customer_id, AUDIENCE, good, bad)]
    assert found_by(installation, "--repair")["repaired"] == 1
    all_good(installation, len(amberflo.customers))


def test_where_amberflo_keeps_text_only_all_is_well(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    for customer_id in synced:
        traits = amberflo.customers[customer_id]["traits"]
        traits |= {
            trait: orjson.dumps(value).decode()
            for trait, value in traits.items()
            if not isinstance(value, str)
        }
    all_good(installation, len(synced))


def test_with_faults(installation: Installation, amberflo: Amberflo, synced: list[str]) -> None:
    amberflo.most = 20
    missing, drifts = plant(amberflo, synced)
    spec = "500=0.04,503=0.02,drop=0.06,429=0.03,retry_after=0"
    for seed, switches in enumerate([{}, {"paging_traits": False}]):
        vars(amberflo).update(switches)
        amberflo.faults = Faults.parse(spec, seed=seed)
        document = found_by(installation, exit_code=1)
        assert (document["missing"], listed(document)) == (missing, drifts)
    amberflo.faults = Faults.parse(spec, seed=9)
    answer = found_by(installation, "--repair")
    assert answer["repaired"] == len({*missing, *(drift[0] for drift in drifts)})
    assert amberflo.stats()["faults"].keys() >= {"429", "500", "503"}
    amberflo.faults = Faults()
    all_good(installation, len(synced))


def test_where_amberflo_is_of_no_use_it_says_why(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    def error(pattern: str) -> None:
        said = installation.run("verify", exit_code=1)
        lines = [line for line in said.stderr.splitlines() if not line.startswith("reading: 0 of")]
        assert len(lines) == 1
        assert re.fullmatch(pattern, lines[0]), lines
        assert said.stdout == ""

    amberflo.faults = Faults.parse("503=1")
    installation.configure(patience=0.3)
    error(r"error: Amberflo sent no usable answer for 0\.3 s: GET http\S+ answered 503")
    installation.configure(api_key="wrong")
    error(r"error: Amberflo refuses the API key \(status 401\).*")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/customers"
        installation.configure(customers_url=url, patience=0.3)
        error(r"error: Amberflo sent no usable answer for 0\.3 s: GET \S+: connection refused .*")
