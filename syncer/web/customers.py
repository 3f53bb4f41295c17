"""Customers: found by the beginning of the id; one with its traits, history and failures."""

from __future__ import annotations

import orjson

from state import failures, identify_traits, snapshot
from state.history import listings
from state.snapshot import CustomerRow
from syncer.web.context import Desk
from syncer.web.messages import ROWS, Answer, GoTo, Missing, Page, Visit
from syncer.web.render import link, values


def search(desk: Desk, visit: Visit) -> Answer:
    prefix, after = visit.text("q").strip(), visit.text("after") or None
    with desk.state.read() as connection:
        found = snapshot.with_prefix(connection, prefix, after=after, limit=ROWS + 1)
    rows = found[:ROWS]
    data = {
        "q": prefix,
        "customers": rows,
        "next": rows[-1].customer_id if len(found) > ROWS else None,
        "paged": after is not None,
    }
    return Page("customers.html", data)


def one(desk: Desk, visit: Visit) -> Answer:
    customer_id, after = visit.text("id"), visit.number("after")
    with desk.state.read() as connection:
        known = _known(snapshot.get(connection, customer_id), customer_id)
        changes = list(
            listings.of_customer(
                connection, customer_id, newest_first=True, after_id=after, limit=ROWS + 1
            )
        )
        failed = failures.page(connection, limit=ROWS, customer_id=customer_id)
        newest = failures.newest(connection)
    return Page(
        "customer.html",
        {
            "customer": known,
            "traits": values(known.traits),
            "called": _called(known.called),
            "changes": changes[:ROWS],
            "next": changes[ROWS - 1].id if len(changes) > ROWS else None,
            "paged": after is not None,
            "failures": [{**row, "retried": not failures.only_discarded(row)} for row in failed],
            "newest": newest,
            "sending": desk.work.under_way(_name(customer_id)),
        },
    )


def send_again(desk: Desk, visit: Visit) -> Answer:
    customer_id = visit.posted("id")
    with desk.state.read() as connection:
        _known(snapshot.get(connection, customer_id), customer_id)
    desk.work.begin(_name(customer_id), f"sending {customer_id} again", "resync", customer_id)
    return GoTo(link("/customer", id=customer_id))


def _called(text: str | None) -> dict[str, str]:
    """The values (JSON) of the traits of identify calls, by name."""
    said = sorted(identify_traits.values(text).items())
    return {name: orjson.dumps(value).decode() for name, value in said}


def _known(found: CustomerRow | None, customer_id: str) -> CustomerRow:
    if found is None:
        raise Missing(f"the customer {customer_id[:200]!r} is not known here")
    return found


def _name(customer_id: str) -> str:
    return f"resync {customer_id}"


READS = {"/customers": search, "/customer": one}
WRITES = {"/customer/send-again": send_again}
