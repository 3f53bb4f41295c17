"""Forgotten customers in a comparison: none comes through, and the sums close."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from state.suppression import Forgotten
from syncer.engage.catalog_builder import build
from syncer.engage.source import ObservedKey, PulledCustomer
from syncer.json_text import canonical
from syncer.sync.diff import compare
from syncer.sync.join import SnapshotRow, merge
from syncer.sync.suppressed import without_suppressed
from syncer.sync.tally import Tally

KEYS = ["vip", "churn", "new"]


def pulled(customer_id: str, *keys: str, name: str | None = None) -> PulledCustomer:
    profile = [] if name is None else [["name", name, "2026-11-01 00:00:00"]]
    times = ["2026-11-01 00:00:00"] * len(keys)
    texts = [json.dumps(list(column)) for column in (keys, ["true"] * len(keys), times)]
    return PulledCustomer(customer_id, *texts, json.dumps(profile))


def known(customer_id: str, **traits: Any) -> SnapshotRow:
    return customer_id, canonical(traits), None, None, None, 1, 1


def gone(*erased: str, pending: set[str] | None = None) -> Forgotten:
    hashes = {sha256(f"salt{customer_id}".encode()).hexdigest() for customer_id in erased}
    return Forgotten("salt", hashes, pending or set())


def compared(
    pull: list[PulledCustomer], snapshot: list[SnapshotRow], who: Forgotten
) -> tuple[Any, Tally]:
    observed = [ObservedKey(key, 1, 1, 0, 0) for key in KEYS]
    catalog = build(observed, [], audiences=["*"], computed_traits=[])
    tally = Tally(catalog)
    pairs = without_suppressed(merge(pull, snapshot), who, tally)
    return {change.customer_id: change for change in compare(pairs, catalog, tally)}, tally


def test_a_forgotten_customer_is_counted_and_does_not_come_through() -> None:
    pull = [pulled("a", "vip", "churn", "vip", name="Ada"), pulled("b", "vip")]
    changes, tally = compared(pull, [], gone("a"))
    assert changes.keys() == {"b"}
    vip, churn = tally.sums["vip"], tally.sums["churn"]
    assert (vip.pulled, vip.entered, vip.reasons) == (2, 1, {"forgotten": 1})
    assert (churn.pulled, churn.reasons) == (1, {"forgotten": 1})
    # What the source counts, a key that stands twice included.
    assert (tally.customers, tally.rows) == (2, 5)
    assert (tally.new, tally.changed, tally.unchanged) == (1, 0, 0)


def test_one_that_is_about_to_be_erased_is_left_as_it_is() -> None:
    pull = [pulled("a", "churn", name="Ada")]
    snapshot = [known("a", vip=True), known("b", vip=True)]
    changes, tally = compared(pull, snapshot, gone(pending={"a", "b", "c"}))
    assert changes == {}
    assert tally.sums["vip"].pulled == 0
    assert (tally.sums["churn"].pulled, tally.sums["churn"].skipped) == (1, 1)


def test_without_any_nothing_is_in_the_way() -> None:
    pairs = iter([(None, known("a"), None)])
    assert without_suppressed(pairs, gone(), Tally.__new__(Tally)) is pairs


customers = st.sets(st.sampled_from("abcdefgh"))


@given(customers, customers, customers, customers, st.sampled_from(KEYS))
def test_the_sums_close(
    pull: set[str], stored: set[str], erased: set[str], pending: set[str], key: str
) -> None:
    stored -= erased
    rows = [pulled(id_, key, "new") for id_ in sorted(pull)]
    states = [known(id_, **{key: True}) for id_ in sorted(stored)]
    changes, tally = compared(rows, states, gone(*erased, pending=pending))
    assert not changes.keys() & (erased | pending)
    assert tally.customers == len(pull)
    for sums in tally.sums.values():
        parts = sums.unchanged + sums.entered + sums.exited + sums.changed + sums.skipped
        assert sums.pulled == parts
