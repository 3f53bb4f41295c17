"""The plan is a list of changes on disk: what goes in comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.engage.values import Value
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.spool import ChangeSpool
from tests.support.examples import examples

TEXT = st.text(max_size=8)
LISTS: st.SearchStrategy[list[object]] = st.lists(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, max_size=3
)
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    LISTS,
)
CHANGES = st.builds(
    CustomerChange,
    TEXT,
    st.booleans(),
    st.dictionaries(TEXT, VALUES, max_size=3),
    st.none() | TEXT,
    st.none() | TEXT,
    st.lists(
        st.builds(
            TraitChange,
            TEXT,
            TEXT,
            st.none() | VALUES,
            st.none() | VALUES,
            st.none() | st.integers(-(2**53), 2**53),
            st.sampled_from([None, "amberflo", "deleted"]),
            st.none() | VALUES,
            st.sampled_from([None, "approved", "rejected"]),
        ),
        max_size=3,
    ),
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.booleans(),
    st.sampled_from([None, "approved", "rejected"]),
    st.booleans(),
)


def plan_of(changes: list[CustomerChange]) -> ChangeSpool:
    plan = ChangeSpool()
    for change in changes:
        plan.append(change)
    return plan


@examples(20)
@given(st.lists(CHANGES, max_size=4))
def test_what_goes_in_comes_out_as_often_as_asked(changes: list[CustomerChange]) -> None:
    plan = plan_of(changes)
    try:
        for _ in range(2):
            copies = list(plan)
            assert copies == changes
            # 1 is not True: the texts must be equal too
            assert repr(copies) == repr(changes)
        assert plan.customers == len(changes)
    finally:
        plan.close()


def test_customers_of_several_lines_and_odd_ids_stay_one_each() -> None:
    changes = [
        CustomerChange(id_, False, {"a": "x\ny"}, "A\r\nB", None, [])
        for id_ in ("a\nb", "\u2028", '"', "\\n", "😀")
    ]
    plan = plan_of(changes)
    assert [change.customer_id for change in plan] == ["a\nb", "\u2028", '"', "\\n", "😀"]
    assert list(plan) == changes
    plan.close()


def test_a_plan_that_was_looked_at_can_be_iterated_from_the_start() -> None:
    changes = [CustomerChange(str(n), True, {}, None, None, []) for n in range(3)]
    plan = plan_of(changes)
    assert next(iter(plan)) == changes[0]
    assert list(plan) == changes
    plan.close()


def test_an_empty_plan() -> None:
    plan = ChangeSpool()
    assert (list(plan), plan.customers) == ([], 0)
    plan.close()


def test_changes_come_back_as_their_types() -> None:
    change = CustomerChange("u", True, {"v": True}, None, None, [TraitChange("K", "k", None, 1, 5)])
    plan = plan_of([change])
    (copy,) = plan
    assert isinstance(copy, CustomerChange)
    assert isinstance(copy.changes[0], TraitChange)
    assert copy.changes[0].observed_at == 5
    plan.close()


def test_a_closed_plan_is_gone() -> None:
    plan = plan_of([CustomerChange("u", True, {}, None, None, [])])
    plan.close()
    with pytest.raises(ValueError, match="closed"):
        list(plan)
