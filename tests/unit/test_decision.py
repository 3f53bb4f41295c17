"""The decision: what of a customer's change goes through, and what is held."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.engage.catalog_builder import build
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT
from syncer.engage.source import ObservedKey
from syncer.sync.changes import CustomerChange, Ruling, TraitChange, leaves
from syncer.sync.decision import Decision, Split
from tests.support.examples import examples

CATALOG = build(
    [ObservedKey(key, 9, 9, 0, 0) for key in ("vip", "fine", "held", "spent")],
    [],
    audiences=["*"],
    computed_traits=["spent"],
)
#: Holds `held`, while what leaves `vip` and `spent` waits for Segment.
DECISION = Decision(CATALOG, {"held": "too many"}, {"vip": "locked", "spent": "failed"})


def change(key: str, before: Any, after: Any, ruling: Ruling | None = None) -> TraitChange:
    return TraitChange(key, key, before, after, 1, ruling=ruling)


@pytest.mark.parametrize(
    ("before", "after", "audience", "computed_trait"),
    [
        (True, False, True, False),
        (True, None, True, True),
        (False, None, False, True),
        (None, False, False, False),
        (None, True, False, False),
        (False, True, False, False),
        ("gold", None, False, True),
        ("gold", "silver", False, False),
    ],
)
def test_who_leaves(before: Any, after: Any, audience: bool, computed_trait: bool) -> None:
    assert leaves(change("k", before, after), AUDIENCE) is audience
    assert leaves(change("k", before, after), COMPUTED_TRAIT) is computed_trait


def test_who_only_leaves_what_waits_is_not_written() -> None:
    leaving = CustomerChange("u", True, {"vip": False}, None, None, [change("vip", True, False)])
    assert DECISION.split(leaving) == Split(None, leaving.changes, [])
    named = leaving._replace(name="Ada")
    kept = named._replace(traits={"vip": True}, changes=[])
    assert DECISION.split(named) == Split(kept, leaving.changes, [])


def test_what_enters_goes_through_beside_what_waits() -> None:
    changes = [
        change("fine", True, False),
        change("held", None, True),
        change("spent", 5, None),
        change("vip", True, False),
    ]
    both = CustomerChange("u", True, {"vip": False, "fine": False}, None, None, changes)
    enters = CustomerChange("v", True, {"vip": True}, None, None, [change("vip", False, True)])
    kept, held, dropped = DECISION.split(both)
    assert kept == both._replace(
        traits={"vip": True, "fine": False, "spent": 5}, changes=changes[:1]
    )
    assert (held, dropped) == (changes[1:], [])
    assert [DECISION.waits(trait_change) for trait_change in changes] == [False, False, True, True]
    assert DECISION.split(enters) == Split(enters, [], [])


def test_a_new_customer_goes_out_with_what_is_not_held() -> None:
    """docs/design.md §3.13: a hold never touches another audience. Who is in nothing without what
    is held is nobody yet."""
    changes = [change("fine", None, True), change("held", None, True)]
    new = CustomerChange("n", False, {"fine": True, "held": True}, None, None, changes)
    kept, held, dropped = DECISION.split(new)
    assert kept == new._replace(traits={"fine": True}, changes=changes[:1])
    assert (held, dropped) == (changes[1:], [])
    once = [change("fine", None, False), changes[1]]
    nobody = CustomerChange("n", False, {"fine": False, "held": True}, None, None, once)
    assert DECISION.split(nobody) == Split(None, once[1:], once[:1])
    only = CustomerChange("n", False, {"held": True}, None, None, changes[1:])
    assert DECISION.split(only) == Split(None, changes[1:], [])


def test_an_approved_change_passes_what_is_held_and_a_rejected_one_nothing() -> None:
    approved = CustomerChange(
        "u", True, {"held": False}, None, None, [change("held", True, False, "approved")]
    )
    assert DECISION.split(approved) == Split(approved, [], [])
    rejected = CustomerChange(
        "u", True, {"fine": False}, None, None, [change("fine", True, False, "rejected")]
    )
    assert DECISION.split(rejected) == Split(None, rejected.changes, [])


@pytest.mark.parametrize("known", [True, False])
def test_what_amberflo_has_stays_there_while_the_change_is_held(known: bool) -> None:
    """The next write of the customer must not take it away."""
    trait_change = TraitChange("held", "held", True, False, None, "amberflo", recorded=None)
    change = CustomerChange("u", known, {"held": False}, None, None, [trait_change])
    kept, held, _ = DECISION.split(change)
    assert kept is not None
    assert kept.traits == {"held": True}
    assert kept.changes == [trait_change._replace(after=True)]
    assert held == [trait_change]


def test_what_is_recorded_is_put_back_beside_a_hold() -> None:
    """Somebody wrote over it at Amberflo; nobody enters or leaves by mending that."""
    mend = TraitChange("held", "held", "broken", True, None, "amberflo", recorded=True)
    change = CustomerChange("u", True, {"held": True}, None, None, [mend])
    assert DECISION.split(change) == Split(change, [], [])
    # With a change of Engage's own it is not: what is recorded stays, and is what a write puts.
    leaves_too = CustomerChange(
        "u", True, {"held": False}, None, None, [mend._replace(after=False)]
    )
    assert DECISION.split(leaves_too) == Split(None, leaves_too.changes, [])


def test_a_value_of_others_is_not_taken_away_while_its_trait_is_held() -> None:
    trait_change = TraitChange("held", "held", "by the CRM", None, None, "amberflo", recorded=None)
    change = CustomerChange("u", False, {"fine": True}, None, None, [trait_change])
    kept, held, _ = DECISION.split(change)
    assert kept is not None
    assert kept.traits == {"fine": True, "held": "by the CRM"}
    assert held == [trait_change]


@pytest.mark.parametrize(
    ("ruling", "deletions", "goes"),
    [
        (None, None, True),
        (None, "too many", False),
        ("approved", "too many", True),
        ("rejected", None, False),
    ],
)
def test_a_deleted_customer_goes_whole_or_not_at_all(
    ruling: Ruling | None, deletions: str | None, goes: bool
) -> None:
    decision = Decision(CATALOG, deletions=deletions)
    changes = [change("fine", True, False)]
    deleted = CustomerChange(
        "u", True, {"fine": False}, None, None, changes, deleted=True, ruling=ruling
    )
    expected = Split(deleted, [], []) if goes else Split(None, changes, [])
    assert decision.split(deleted) == expected


def test_what_amberflo_has_of_a_held_deletion_stays_there_too() -> None:
    decision = Decision(CATALOG, deletions="too many")
    trait_change = TraitChange("vip", "vip", True, False, None, "amberflo", recorded=None)
    deleted = CustomerChange("u", True, {"vip": False}, None, None, [trait_change], deleted=True)
    kept, held, _ = decision.split(deleted)
    assert kept is not None
    assert (kept.traits, kept.deleted) == ({"vip": True}, False)
    assert kept.changes == [trait_change._replace(after=True)]
    assert held == [trait_change]


KEYS = {"vip": AUDIENCE, "fine": AUDIENCE, "held": AUDIENCE, "spent": COMPUTED_TRAIT}


@st.composite
def customer_changes(draw: st.DrawFn) -> CustomerChange:
    known = draw(st.booleans())
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    rulings: dict[str, Ruling | None] = {}
    for key, kind in KEYS.items():
        values = st.sampled_from([True, False] if kind == AUDIENCE else [5, "gold"])
        was = draw(st.none() | values) if known else None
        now = draw(st.none() | values)
        if kind == AUDIENCE and was is not None and now is None:
            now = False  # a membership that is gone is false (docs/design.md §3.4)
        before |= {} if was is None else {key: was}
        after |= {} if now is None else {key: now}
        rulings[key] = draw(st.sampled_from([None, None, "approved", "rejected"]))
    changes = [
        change(key, before.get(key), after.get(key), rulings[key])
        for key in sorted(KEYS)
        if before.get(key) is not after.get(key)
    ]
    return CustomerChange("u", known, after, None, None, changes)


@examples(25)
@given(customer_changes())
def test_what_goes_through_and_what_does_not_are_all_of_it(customer: CustomerChange) -> None:
    kept, held, dropped = DECISION.split(customer)
    through = kept.changes if kept is not None else []
    assert sorted(map(str, [*through, *held, *dropped])) == sorted(map(str, customer.changes))
    assert not any(leaves(each, KEYS[each.key]) for each in through if each.key in ("vip", "spent"))
    assert not any(each.key == "held" for each in through if each.ruling != "approved")
    assert not any(each.ruling == "rejected" for each in through)
    for each in held:
        assert each.ruling == "rejected" or each.key == "held" or DECISION.waits(each)
    if kept is not None:
        for each in held:
            assert kept.traits.get(each.trait) == each.before
        for each in through:
            assert kept.traits.get(each.trait) == each.after
