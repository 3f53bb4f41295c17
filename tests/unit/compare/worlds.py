"""Random customers: what is pulled of them, and what is known."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from syncer.engage.catalog import KnownTrait
from syncer.engage.computations import COMPUTED_TRAIT
from syncer.engage.source import PulledCustomer
from syncer.ids import problem
from tests.unit.compare.helpers import (
    JULY,
    JULY_MS,
    JUNE,
    JUNE_MS,
    MAY,
    MAY_MS,
    TRAITS,
    Stored,
    known,
    pulled,
)

#: What a stored value means, so that the oracle does not read values itself.
MEMBERSHIPS: list[tuple[object, object]] = [
    *((raw, True) for raw in ("true", "T", "1", True, 1)),
    *((raw, False) for raw in ("false", "f", " 0", False, 0)),
    *((raw, "null") for raw in (None, "", "null")),
    *((raw, "garbage") for raw in ("perhaps", "2", 7)),
]


COMPUTED: list[tuple[object, object]] = [
    *((raw, ("value", raw)) for raw in ("text", "007", 1, 1.0, True, False, 0)),
    *(("1", ("value", 1)), ("450.00", ("value", 450.0)), ("true", ("value", True))),
    *((f" {json.dumps(raw)}", ("value", raw)) for raw in (["a"], [], [1, True])),
    *((raw, "null") for raw in (None, " ", "null")),
]


TIMES: list[tuple[str | None, int | None]] = [
    *((MAY, MAY_MS), (JUNE, JUNE_MS), (JULY, JULY_MS)),
    *((None, None), ("soon", None)),
]


TraitRow = tuple[str, object, object, str | None, int | None]


@dataclass
class Rows:
    """What the source says of a customer: (key, raw, meaning, time text, time)."""

    traits: list[TraitRow]
    profile: list[tuple[str, str | None, str | None, int]]


@dataclass
class State:
    """What Amberflo should hold of a customer."""

    traits: dict[str, Any]
    name: str | None = None
    email: str | None = None
    stamps: dict[str, list[int]] | None = None


@dataclass
class World:
    pull: dict[str, Rows]
    snapshot: dict[str, State]

    def rows(self) -> list[PulledCustomer]:
        return [
            pulled(
                customer_id,
                *((key, raw, time) for key, raw, _, time, _ in rows.traits),
                profile=[(key, value, time) for key, value, time, _ in rows.profile],
            )
            for customer_id, rows in in_order(self.pull)
        ]

    def known(self) -> list[Stored]:
        return [
            known(customer_id, state.traits, state.name, state.email, state.stamps)
            for customer_id, state in in_order(self.snapshot)
        ]


def in_order(customers: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(customers.items(), key=lambda item: item[0].encode())


def possible_rows(trait: KnownTrait) -> list[list[TraitRow]]:
    """No row, one, or two (a merge under way) of a trait: one choice, so that much is tried."""
    values = COMPUTED if trait.kind == COMPUTED_TRAIT else MEMBERSHIPS
    ones: list[TraitRow] = [
        (trait.key, raw, meaning, *TIMES[number % len(TIMES)])
        for number, (raw, meaning) in enumerate(values)
    ]
    twos: list[list[TraitRow]] = [
        [(trait.key, *values[first], *time), (trait.key, *values[second], *other)]
        for first in range(0, len(values), 2)
        for second in range(1, len(values), 3)
        for time in TIMES
        for other in TIMES
    ]
    return [[], *([row] for row in ones), *twos[::7]]


def possible_profiles(key: str, value: str) -> list[list[tuple[str, str | None, str | None, int]]]:
    """Of equal keys the later row is the newer one, as the source orders them."""
    return [
        [],
        [(key, value, MAY, MAY_MS)],
        [(key, None, MAY, MAY_MS)],
        [(key, "", None, 0), (key, value, MAY, MAY_MS)],
        [(key, value, MAY, MAY_MS), (key, "x" + value, JUNE, JUNE_MS)],
        [(key, value, MAY, MAY_MS), (key, "null", JULY, JULY_MS)],
    ]


#: The source has no row of "lost". Half of the time a trait has none or one.
ROWS = [
    st.sampled_from([*rows, *rows[: len(rows) // 4] * 4])
    for rows in (possible_rows(trait) for trait in TRAITS if trait.key != "lost")
]


PROFILES = [
    st.sampled_from(possible_profiles("email", "a@example.com")),
    st.sampled_from(possible_profiles("name", "Ada")),
]


@st.composite
def rows_of_a_customer(draw: st.DrawFn) -> Rows:
    traits = [row for rows in ROWS for row in draw(rows)]
    profile = [row for rows in PROFILES for row in draw(rows)]
    if draw(st.booleans()):
        # of the rows of one key the later one is the newer one in either order
        traits.reverse()
        profile.sort(key=lambda row: row[3])
    return Rows(traits, profile)


STAMPED = ["vip", "lost", "total", "tags", "gold_club", "stranger", "name", "email"]


STAMPS = [1, MAY_MS, MAY_MS + 1, JUNE_MS, JUNE_MS + 1, JULY_MS, JULY_MS + 1]


MEMBER = st.sampled_from([None, True, False])


VALUE = st.sampled_from([None, None, "text", 1, 1.0, True, 450.0, ["a"]])


STATES = st.builds(
    lambda vip, orders, lost, gold, total, tags, stranger, name, email, stamps: State(
        {
            key: value
            for key, value in {
                "vip": vip,
                "order_completed_last_30days": orders,
                "lost": lost,
                "gold_club": gold,
                "total": total,
                "tags": tags,
                "stranger": stranger,
            }.items()
            if value is not None
        },
        name,
        email,
        stamps,
    ),
    *(MEMBER, MEMBER, MEMBER, MEMBER, VALUE, VALUE, VALUE),
    st.sampled_from([None, "Ada", "Zoë"]),
    st.sampled_from([None, "a@example.com"]),
    st.none()
    | st.dictionaries(
        st.sampled_from(STAMPED),
        st.tuples(st.sampled_from(STAMPS), st.sampled_from(STAMPS)).map(list),
        max_size=3,
    ),
)


TEXTS = st.text(min_size=1, max_size=3) | st.sampled_from(["a", "b", "é", "z", "\uffff", "😀"])


#: `look_up` leaves rows unpaired whose id can be no customer's; `with_valid_ids` drops these.
IDS = TEXTS.filter(lambda text: problem(text) is None)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    ids = draw(st.lists(IDS, unique=True, max_size=6))
    where = {id_: draw(st.sampled_from(["both", "both", "pull", "snapshot"])) for id_ in ids}
    return World(
        {id_: draw(rows_of_a_customer()) for id_ in ids if where[id_] != "snapshot"},
        {id_: draw(STATES) for id_ in ids if where[id_] != "pull"},
    )
