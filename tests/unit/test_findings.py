"""What a verification keeps on disk."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest

from syncer.amberflo.record import Difference
from syncer.sync.findings import EQUAL, EXTRA, SUSPECT, Drift, Findings


@pytest.fixture
def findings() -> Iterator[Findings]:
    with closing(Findings()) as findings:
        yield findings


def test_the_last_look_counts(findings: Findings) -> None:
    ids = [f"u{number:04}" for number in range(1200)]
    findings.put_looks([(id_, SUSPECT) for id_ in ids])
    findings.put_looks([(id_, EQUAL) for id_ in ids[::2]])
    looks = findings.looks([*ids, "nobody"])
    assert looks == {id_: EQUAL if id_ in set(ids[::2]) else SUSPECT for id_ in ids}
    assert findings.looks([]) == {}


def test_lists_are_in_byte_order(findings: Findings) -> None:
    ids = ["A", "a", "z", "ä", "\uffee", "😀", " ", "'"]
    mixed = random.Random(2).sample(ids, len(ids))
    wanted = sorted(ids, key=lambda id_: id_.encode())
    findings.put_looks([(id_, EXTRA) for id_ in mixed])
    for customer_id in mixed:
        drifts = [Difference("vip", True, None)] if customer_id.isalpha() else []
        findings.put(customer_id, drifts, missing=not drifts)
    assert list(findings.extra()) == list(findings.differing()) == wanted
    assert list(findings.missing()) == [id_ for id_ in wanted if not id_.isalpha()]
    drifted = [id_ for id_ in wanted if id_.isalpha()]
    assert list(findings.drifts()) == [Drift(id_, "vip", True, None) for id_ in drifted]


def test_counts_and_repairs(findings: Findings) -> None:
    assert findings.counts() == {"missing": 0, "drifted": 0, "repaired": 0, "extra": 0}
    findings.put("gone", [], missing=True)
    two = [Difference("vip", True, False), Difference("customerName", "Ada", None)]
    findings.put("u1", two)
    findings.put("u2", [Difference("vip", None, 1)])
    findings.put_looks([("x", EXTRA), ("u1", SUSPECT)])
    assert findings.counts() == {"missing": 1, "drifted": 2, "repaired": 0, "extra": 1}
    assert findings.drifted_traits() == {"vip": (2, 0, 1), "customerName": (1, 1, 0)}
    assert findings.differ(["u1", "gone", "x"]) == {"u1", "gone"}
    assert list(findings.drifts("u1")) == [Drift("u1", *drift) for drift in two]
    for customer_id in findings.differing():  # while the list is being read
        findings.repaired(customer_id)
    assert findings.counts() == {"missing": 1, "drifted": 2, "repaired": 3, "extra": 1}
