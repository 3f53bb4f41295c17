"""`syncer verify` from end to end: what Amberflo holds against what it should hold."""

from __future__ import annotations

import random
import re
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from state import erasure, outbox, snapshot
from state.db.database import Database
from state.db.locks import run_lock
from state.snapshot import CustomerRow
from syncer.amberflo import reader
from syncer.sandbox.amberflo import AmberfloSandbox, Call, refuse, running
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.support.installation import API_KEY, Installation
from tests.support.warehouse import Warehouse

FOREIGN = {"stripeId": "cus_1", "payment.netDays": "30", "seats": 5, "on": True}
AUDIENCE, OTHER = "vip", "big_spender"


class Amberflo(AmberfloSandbox):
    """The stand-in with what else a server may do. A hook is called with the query after the
    answer was made, so that what it changes is news to the answer."""

    def __init__(self) -> None:
        super().__init__(API_KEY)
        self.most = 10**9  # customers that a page may have
        self.refuses_more = False  # or else gives fewer
        self.no_pages = self.no_list = self.gives_last_page_for_ever = False
        self.lists_deleted = False
        self.refused: set[str] = set()
        self.after_page: Callable[[str], None] = lambda page: None
        self.after_read: Callable[[str], None] = lambda customer_id: None

    def _listed(self) -> list[dict[str, Any]]:
        return list(self.customers.values()) if self.lists_deleted else super()._listed()

    def _page_customers(self, call: Call) -> web.Response:
        query = dict(call.query)
        if self.no_pages:
            refuse("no pages")
        if int(query["limit"]) > self.most:
            if self.refuses_more:
                refuse(f"'limit' may be {self.most}")
            query["limit"] = str(self.most)
        if self.gives_last_page_for_ever:
            last = -(-len(self.customers) // int(query["limit"]))
            query["page"] = str(min(int(query["page"]), last))
        answer = super()._page_customers(Call(query, call.customer))
        self.after_page(query["page"])
        return answer

    def _get_customers(self, call: Call) -> web.Response:
        customer_id = call.query.get("customerId")
        if customer_id is None and self.no_list:
            refuse("too many")
        answer = super()._get_customers(call)
        if customer_id is not None:
            self.after_read(customer_id)
        return answer

    def _create_customer(self, call: Call) -> web.Response:
        self._check_refused(call)
        return super()._create_customer(call)

    def _replace_customer(self, call: Call) -> web.Response:
        self._check_refused(call)
        return super()._replace_customer(call)

    def _check_refused(self, call: Call) -> None:
        if any(customer_id.encode() in call.body for customer_id in self.refused):
            refuse("not this one")


@pytest.fixture
def amberflo() -> Amberflo:
    return Amberflo()


@pytest.fixture
def installation(tmp_path: Path, amberflo: Amberflo) -> Iterator[Installation]:
    with running(amberflo) as url:
        found = Installation(tmp_path, amberflo, url)
        found.configure()
        yield found


@pytest.fixture
def engage(installation: Installation) -> Iterator[EngageSandbox]:
    found = EngageSandbox(
        installation.source_url, seed=7, clock=datetime.now(UTC) - timedelta(days=30)
    )
    found.fill(300, 6)
    yield found
    found.close()


@pytest.fixture
def synced(installation: Installation, amberflo: Amberflo, engage: EngageSandbox) -> list[str]:
    """Everybody is sent, and others have put traits of their own there; the ids."""
    installation.run("sync")
    for record in amberflo.customers.values():
        record["traits"] = record["traits"] | FOREIGN
    amberflo.reset_stats()
    return sorted(amberflo.customers)


def found_by(installation: Installation, *more: str, exit_code: int = 0) -> dict[str, Any]:
    """What `verify` says; its sums must close."""
    document: dict[str, Any] = installation.json("verify", *more, exit_code=exit_code)
    drifted = {row["customer_id"] for row in document["drifted"]}
    parts = document["equal"] + document["pending"] + len(document["missing"]) + len(drifted)
    assert document["checked"] == parts
    return document


def rename(amberflo: Amberflo, synced: list[str], count: int) -> list[str]:
    """Give customers of which we know the name another one; their ids."""
    named = [one for one in synced if amberflo.customers[one]["customerName"] != one][:count]
    for one in named:
        amberflo.customers[one]["customerName"] = "x"
    return named


def all_good(installation: Installation, customers: int, extra: int = 0) -> None:
    document = found_by(installation)
    assert (document["checked"], document["equal"]) == (customers, customers)
    assert (document["missing"], document["drifted"]) == ([], [])
    assert (len(document["extra"]), document["repaired"], document["pending"]) == (extra, 0, 0)


Drifts = list[tuple[str, str, Any, Any]]


def plant(amberflo: Amberflo, synced: list[str]) -> tuple[list[str], Drifts]:
    """50 customers that are no more what they should be, in every way: who is missing, and all
    (customer, trait, expected, found)."""
    left = random.Random(3).sample(synced, len(synced))
    missing: list[str] = []
    drifts: Drifts = []

    def take(fits: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        chosen = next(one for one in left if fits(amberflo.customers[one]))
        left.remove(chosen)
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
    assert len({*missing, *(one[0] for one in drifts)}) == 50
    return sorted(missing), sorted(drifts, key=lambda one: one[:2])


def listed(document: dict[str, Any]) -> Drifts:
    names = ("customer_id", "trait", "expected", "actual")
    rows = [tuple(row[name] for name in names) for row in document["drifted"]]
    return sorted(rows, key=lambda one: one[:2])


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
    assert {f"missing {one}" for one in missing} <= lines
    assert sum(line.startswith("drifted ") for line in lines) == len(drifts)
    assert "`syncer verify --repair`" in said.stderr
    # A look writes nothing.
    assert installation.holds() == planted
    assert installation.puts() == {}

    said = installation.run("verify", "--repair", "--json")
    wrong = {*missing, *(one[0] for one in drifts)}
    assert f'"repaired": {len(wrong)}' in said.stdout
    # Engage says no more of this one than that it is not in it: Amberflo holds it so already.
    right = {one[0] for one in drifts if one[1:] == (OTHER, None, False)}
    assert installation.puts() == dict.fromkeys(wrong - right, 1)
    assert set(re.findall(r"^repaired (\S+): ", said.stderr, re.MULTILINE)) == wrong
    all_good(installation, len(synced), extra=1)
    now = installation.holds()
    memberships = {(one[0], one[1]) for one in drifts if isinstance(one[3], bool)}
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
    one, _ = rename(amberflo, synced, 2)
    amberflo.customers["somebody"] = {"customerId": "somebody", "customerName": "Else"}
    document = found_by(installation, "--customer", one, exit_code=1)
    assert (document["checked"], document["drifted"][0]["customer_id"]) == (1, one)
    document = found_by(installation, "--customer", "somebody")
    assert (document["checked"], document["extra"]) == (0, ["somebody"])
    said = installation.run("verify", "--customer", "nobody", exit_code=1)
    assert said.stderr == ("error: the customer 'nobody' was never sent, and is not at Amberflo\n")
    assert found_by(installation, "--customer", one, "--repair")["repaired"] == 1
    assert installation.puts() == {one: 1}
    del amberflo.customers[one]
    assert found_by(installation, "--customer", one, exit_code=1)["missing"] == [one]


def test_in_every_way_that_amberflo_can_be_read(
    installation: Installation,
    amberflo: Amberflo,
    synced: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "BATCH", 70)
    missing, drifts = plant(amberflo, synced)
    amberflo.customers["somebody"] = {"customerId": "somebody", "customerName": "Else"}
    singles = len(missing) + len({one[0] for one in drifts})
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
    emptied = [one for one in synced if amberflo.customers[one]["traits"].keys() > FOREIGN.keys()]
    for one in emptied[:20]:
        del amberflo.customers[one]["traits"]
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
        (one, record)
        for one, record in sorted(amberflo.customers.items())
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
    for one in synced:
        traits = amberflo.customers[one]["traits"]
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
    found = found_by(installation, "--repair")
    assert found["repaired"] == len({*missing, *(one[0] for one in drifts)})
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


def test_a_run_at_the_same_time_is_no_drift(
    installation: Installation, amberflo: Amberflo, synced: list[str], engage: EngageSandbox
) -> None:
    amberflo.faults = Faults.parse("slow=0.1,slow_seconds=0.02")
    pending, times = 0, 0
    for _ in range(2):
        changed = engage.evolve(fraction=0.2).changed
        assert len(changed) > 40
        installation.configure(rate=60, concurrency=4)
        amberflo.reset_stats()
        with installation.start("sync", "--full") as process:
            while process.poll() is None and not installation.puts():
                time.sleep(0.02)
            installation.configure(concurrency=32)
            while process.poll() is None:
                document = found_by(installation)
                assert document["extra"] == []
                pending += document["pending"]
                times += 1
            process.communicate()
        assert process.returncode == 0
        amberflo.paging_traits = amberflo.list_traits = False
    assert pending > 0
    assert times > 3
    all_good(installation, len(amberflo.customers))


def deliver(installation: Installation, amberflo: Amberflo, customer_id: str) -> None:
    """A change of a customer is found and delivered, all in a moment."""
    now = time.time_ns() // 1_000_000
    database = Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")
    with database.write() as connection:
        (state,) = snapshot.find(connection, [customer_id])
        snapshot.update_customers(connection, [state._replace(name=f"Name {now}")], now)
        (row,) = outbox.claim(connection, 1, now, 1)
        assert row.customer_id == customer_id
        outbox.acknowledge(connection, [row], now)
    database.close()
    amberflo.customers[customer_id] = {
        **amberflo.customers[customer_id],
        "customerName": f"Name {now}",
    }


def make_due(installation: Installation, customer_id: str) -> None:
    database = Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")
    with database.write() as connection:
        outbox.send_again(connection, 1, customer_ids=[customer_id])
    database.close()


def test_what_changed_between_two_looks_is_no_drift(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    """The page is older than the state; then so is the customer's own record, once."""
    once = set(synced[:20])

    def after_page(page: str) -> None:
        if page == "1":
            for one in once:
                deliver(installation, amberflo, one)

    def after_read(customer_id: str) -> None:
        if customer_id in once:
            once.remove(customer_id)
            deliver(installation, amberflo, customer_id)

    amberflo.after_page, amberflo.after_read = after_page, after_read
    all_good(installation, len(synced))
    assert not once
    # What became due meanwhile, or changes all the time, is pending and never wrong.
    (one,) = rename(amberflo, synced, 1)
    amberflo.after_page = lambda page: None
    amberflo.after_read = lambda customer_id: make_due(installation, customer_id)
    document = found_by(installation)
    assert (document["pending"], document["equal"]) == (1, len(synced) - 1)
    deliver(installation, amberflo, one)
    rename(amberflo, synced, 1)
    amberflo.after_read = lambda customer_id: deliver(installation, amberflo, customer_id)
    document = found_by(installation)
    assert (document["pending"], document["equal"]) == (1, len(synced) - 1)


def test_a_forgotten_customer_is_one_more_at_amberflo(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    gone = synced[3]
    installation.run("forget", gone, "--yes")
    all_good(installation, len(synced) - 1, extra=1)
    for more in ((), ("--customer", gone), ("--repair",)):
        assert found_by(installation, *more)["extra"] == [gone]
    del amberflo.customers[gone]
    all_good(installation, len(synced) - 1)
    done = installation.run("verify", "--customer", gone, exit_code=1)
    assert "was never sent, and is not at Amberflo" in done.stderr


@pytest.mark.parametrize("when", ["page", "read"])
def test_who_is_erased_between_two_looks_is_not_judged(
    installation: Installation, amberflo: Amberflo, synced: list[str], when: str
) -> None:
    (gone,) = rename(amberflo, synced, 1)
    left = {gone}

    def forget(_: str) -> None:
        if left:
            left.clear()
            url = f"sqlite:///{installation.folder / 'syncer.db'}"
            with (
                closing(Database.open(url)) as database,
                database.write(alone=True) as connection,
            ):
                erasure.erase(connection, gone, time.time_ns() // 1_000_000)

    if when == "page":
        amberflo.after_page = forget
    else:
        amberflo.after_read = forget
    document = found_by(installation)
    assert not left
    assert document["checked"] == document["equal"] == len(synced) - 1
    assert (document["missing"], document["drifted"]) == ([], [])


def test_pages_that_move_hide_nobody(
    installation: Installation,
    amberflo: Amberflo,
    synced: list[str],
) -> None:
    amberflo.most = 20
    traits = found_by(installation)["traits"]
    moved: list[str] = []

    def after_page(page: str) -> None:
        """Each page is one further, or one back, when the next one is asked for."""
        new = f"!{page}"
        if int(page) < 8:
            amberflo.customers[new] = {"customerId": new, "customerName": new}
            moved.append(new)
        elif moved:
            del amberflo.customers[moved.pop()]

    amberflo.after_page = after_page
    document = found_by(installation)
    assert document["equal"] == len(synced)
    assert document["traits"] == traits  # and count nobody twice
    requests = amberflo.stats()["requests"]
    assert requests["GET /customers"] >= 5  # those that fell between two pages


def test_what_is_due_refused_or_never_sent(
    installation: Installation, amberflo: Amberflo, engage: EngageSandbox
) -> None:
    amberflo.refused = {one.customer_id for one in list(engage.expected())[:3]}
    installation.run("sync", exit_code=1)
    sent = len(amberflo.customers)
    all_good(installation, sent)
    # Refused ones that are there all the same were not sent by us.
    there, *_ = sorted(amberflo.refused)
    amberflo.customers[there] = {"customerId": there, "customerName": "before us"}
    all_good(installation, sent, extra=1)

    due, new = sorted(amberflo.customers)[3], "new"
    database = Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")
    with database.write() as connection:
        outbox.send_again(connection, 1, customer_ids=[due])
        state = CustomerRow(new, '{"vip":true}', None, None, None, None)
        snapshot.insert_customers(connection, [state], 1)
    database.close()
    amberflo.customers[due]["customerName"] = "older"
    amberflo.customers[new] = {"customerId": new, "customerName": new}
    document = found_by(installation)
    assert (document["checked"], document["pending"], document["equal"]) == (sent, 1, sent - 1)
    assert document["extra"] == [there]
    said = installation.run("verify", "--customer", new, exit_code=1)
    assert "is still to be sent" in said.stderr


def test_what_cannot_be_repaired_is_said(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    """Whether Amberflo lists who was deleted there, or does not."""
    for lists_deleted in (False, True):
        amberflo.lists_deleted = lists_deleted
        refused, mended = rename(amberflo, synced, 2)
        deleted = synced[-1]
        amberflo.customers[deleted] |= {"deleteTime": 1, "lifecycleStage": "OFFBOARDED"}
        amberflo.refused = {refused}
        said = installation.run("verify", "--repair", exit_code=1)
        assert f"missing {deleted}" in said.stdout.splitlines(), lists_deleted
        lines = said.stderr.splitlines()
        assert f"repaired {mended}: customerName" in lines
        assert (
            f"not repaired {deleted}: Amberflo does not show it; if it was deleted there, "
            "reinstate it there"
        ) in lines, lists_deleted
        assert f"not repaired {refused}: it still differs in customerName" in lines
        assert "error: Amberflo does not take 1 customers: `syncer failures` lists them" in lines
        assert "1 of 3 repaired" in lines
        amberflo.refused = set()
        del amberflo.customers[deleted]["deleteTime"]
        assert found_by(installation, "--repair")["repaired"] == 1
        assert installation.json("failures") == []


def test_a_repair_that_is_killed_leaves_the_rest_due(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    rename(amberflo, synced, 100)
    amberflo.faults = Faults.parse("slow=1,slow_seconds=0.02")
    installation.configure(concurrency=4)
    process = installation.start("verify", "--repair")
    until = time.monotonic() + 20
    while len(installation.puts()) < 10 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    amberflo.faults = Faults()
    sent = len(installation.puts())
    assert 10 <= sent < 90
    assert installation.json("status")["backlog"]["customers"] >= 100 - sent
    assert found_by(installation)["drifted"] == []  # what is due is no drift
    installation.run("sync")
    all_good(installation, len(synced))


def test_a_stop_ends_it(installation: Installation, amberflo: Amberflo, synced: list[str]) -> None:
    amberflo.paging_traits = amberflo.list_traits = False
    installation.configure(rate=50)
    process = installation.start("verify")
    until = time.monotonic() + 20
    while amberflo.stats()["requests"].get("GET /customers", 0) < 20 and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 1
    assert said.splitlines()[-1] == "error: stopped before everything was read"


def test_while_a_run_goes_on_nothing_is_repaired(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    """What was found is told all the same."""
    renamed = rename(amberflo, synced, 2)
    database = Database.open(f"sqlite:///{installation.folder / 'syncer.db'}")
    with run_lock(database):
        said = installation.run("verify", "--repair", "--json", exit_code=1)
    database.close()
    assert "error: another run is going on" in said.stderr
    assert {row["customer_id"] for row in orjson.loads(said.stdout)["drifted"]} == {*renamed}
    assert installation.puts() == {}


def test_who_verifies_takes_part_in_the_one_rate(
    installation: Installation, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.configure(rate=200)
    warehouse.users(3, vip="true")
    installation.run("sync")
    pages, kinds = installation.amberflo._routes["GET /customers/paging"], []

    def look(call: Any) -> Any:
        with closing(sqlite3.connect(installation.folder / "syncer.db")) as state:
            kinds.extend(kind for (kind,) in state.execute("SELECT kind FROM worker"))
        return pages(call)

    monkeypatch.setitem(installation.amberflo._routes, "GET /customers/paging", look)
    installation.run("verify")
    assert kinds
    assert set(kinds) == {"reader"}
