"""Pages of customers: a search by parts of the id, name or email; one customer with its history."""

from __future__ import annotations

from collections.abc import Sequence

from state import failures, identify_traits, snapshot
from state.customer_search import Match, containing
from state.history import listings
from state.snapshot import CustomerRow
from syncer.json_text import to_json
from syncer.web.context import Context
from syncer.web.messages import ROWS, NotFound, Page, Redirect, Request, Response
from syncer.web.render import link, values

#: Letters of a part from which on it is searched for inside of texts, and the seconds for it.
LEAST, SECONDS = 3, 1.0


def search(context: Context, request: Request) -> Response:
    """List those whose id begins with the text, then those that have it elsewhere.

    The first is a look into an index. The second reads customers one by one, for a second or less
    a page, and goes on where the last page stopped (`seen`).
    """
    part, after = request.text("q").strip(), request.text("after") or None
    seen = request.text("seen") or None
    with context.state.read() as connection:
        customers: Sequence[CustomerRow | Match] = (
            snapshot.with_prefix(connection, part, after=after, limit=ROWS + 1)
            if seen is None
            else []
        )
        inside = None
        if len(customers) <= ROWS and len(part) >= LEAST:
            inside = containing(connection, part, after=seen or "", limit=ROWS, seconds=SECONDS)
    rows = [*customers[:ROWS]]
    if inside is not None:
        rows += [match for match in inside.matches if not match.customer_id.startswith(part)]
    data = {
        "q": part,
        "customers": rows,
        "next": rows[-1].customer_id if len(customers) > ROWS else None,
        "paged": after is not None or seen is not None,
        "inside": inside,
        "short": 0 < len(part) < LEAST,
    }
    return Page("customers.html", data)


def detail(context: Context, request: Request) -> Response:
    customer_id, after = request.text("id"), request.number("after")
    with context.state.read() as connection:
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
            "identified": _identified(known.identify_traits),
            "changes": changes[:ROWS],
            "next": changes[ROWS - 1].id if len(changes) > ROWS else None,
            "paged": after is not None,
            "failures": failed,
            "newest": newest,
            "sending": context.tasks.under_way(_task_name(customer_id)),
        },
    )


def send_again(context: Context, request: Request) -> Response:
    customer_id = request.posted("id")
    with context.state.read() as connection:
        _known(snapshot.get(connection, customer_id), customer_id)
    context.tasks.begin(
        _task_name(customer_id), f"sending {customer_id} again", "resync", customer_id
    )
    return Redirect(link("/customer", id=customer_id))


def _identified(text: str | None) -> dict[str, str]:
    """Return the traits of identify calls: values as JSON by name."""
    traits = sorted(identify_traits.values(text).items())
    return {name: to_json(value) for name, value in traits}


def _known(customer: CustomerRow | None, customer_id: str) -> CustomerRow:
    if customer is None:
        raise NotFound(f"the customer {customer_id[:200]!r} is unknown")
    return customer


def _task_name(customer_id: str) -> str:
    return f"resync {customer_id}"


READS = {"/customers": search, "/customer": detail}
WRITES = {"/customer/send-again": send_again}
