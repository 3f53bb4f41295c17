"""An Amberflo that may be changed behind the syncer, and what `syncer verify` says of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from state import outbox, snapshot
from state.db.database import Database
from syncer.sandbox.amberflo import AmberfloSandbox, Call, refuse
from tests.support.installation import API_KEY, Installation

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


def found_by(installation: Installation, *more: str, exit_code: int = 0) -> dict[str, Any]:
    """What `verify` says; its sums must close."""
    document: dict[str, Any] = installation.json("verify", *more, exit_code=exit_code)
    drifted = {row["customer_id"] for row in document["drifted"]}
    parts = document["equal"] + document["pending"] + len(document["missing"]) + len(drifted)
    assert document["checked"] == parts
    return document


def rename(amberflo: Amberflo, synced: list[str], count: int) -> list[str]:
    """Give customers of which we know the name another one; their ids."""
    named = [id_ for id_ in synced if amberflo.customers[id_]["customerName"] != id_][:count]
    for customer_id in named:
        amberflo.customers[customer_id]["customerName"] = "x"
    return named


def all_good(installation: Installation, customers: int, extra: int = 0) -> None:
    document = found_by(installation)
    assert (document["checked"], document["equal"]) == (customers, customers)
    assert (document["missing"], document["drifted"]) == ([], [])
    assert (len(document["extra"]), document["repaired"], document["pending"]) == (extra, 0, 0)


Drifts = list[tuple[str, str, Any, Any]]


def listed(document: dict[str, Any]) -> Drifts:
    names = ("customer_id", "trait", "expected", "actual")
    rows = [tuple(row[name] for name in names) for row in document["drifted"]]
    return sorted(rows, key=lambda row: row[:2])


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
