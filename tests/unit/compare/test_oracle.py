"""The comparison against an oracle, on random customers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given

from syncer.engage import catalog as catalogs
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT
from syncer.engage.source import PulledCustomer
from syncer.sync import diff as comparison
from syncer.sync.changes import CustomerChange, TraitChange
from syncer.sync.diff import compare
from syncer.sync.join import look_up, merge
from syncer.sync.tally import Sums, Tally
from tests.support.examples import examples
from tests.unit.compare.helpers import (
    JUNE_MS,
    MAY,
    ORDERS,
    PROBLEMS,
    TRAITS,
    known,
    make_catalog,
    pulled,
    run,
)
from tests.unit.compare.worlds import Rows, State, World, in_order, worlds


@dataclass
class Expected:
    """What the oracle says."""

    states: dict[str, State]
    new: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    unchanged: set[str] = field(default_factory=set)
    changes: dict[str, list[TraitChange]] = field(default_factory=dict)
    sums: dict[str, Sums] = field(default_factory=lambda: {trait.key: Sums() for trait in TRAITS})


def is_same(first: object, other: object) -> bool:
    return json.dumps(first, sort_keys=True) == json.dumps(other, sort_keys=True)


def oracle(world: World, *, whole: bool = True) -> Expected:
    """docs/design.md §3, straight: each customer on its own, all in dicts."""
    expected = Expected(dict(world.snapshot))
    for customer_id in {*world.pull, *(world.snapshot if whole else ())}:
        _expect(customer_id, world, expected, whole)
    return expected


def _expect(customer_id: str, world: World, expected: Expected, whole: bool) -> None:
    before = world.snapshot.get(customer_id)
    rows = world.pull.get(customer_id, Rows([], []))
    newest: dict[str, tuple[object, int | None]] = {}
    for key, _, meaning, _, at in rows.traits:
        if key not in newest or (at or 0) >= (newest[key][1] or 0):
            newest[key] = (meaning, at)
    was = before.traits if before else {}
    stamps = (before.stamps if before else None) or {}
    profile: dict[str, tuple[str | None, int]] = {"name": (None, 0), "email": (None, 0)}
    for key, value, _, at in rows.profile:
        if at >= max(profile[key][1], stamps.get(key, [0, 0])[0]):
            profile[key] = ("" if value in (None, "", "null") else value, at)

    now: dict[str, Any] = {}
    for name in {*was, *(trait.name for trait in TRAITS)}:
        mine = [trait for trait in TRAITS if trait.name == name and trait.key not in PROBLEMS]
        if not mine:
            keep = name in was
        else:
            meaning, at_or_none = newest.get(mine[0].key, ("absent", None))
            said, received = stamps.get(name, [0, 0])
            called = received > JUNE_MS and said >= (at_or_none or 0)
            open_ = meaning == "absent" and not whole
            keep = (called or open_ or meaning == "garbage") and name in was
            if called:
                pass
            elif isinstance(meaning, bool):
                now[name] = meaning
            elif isinstance(meaning, tuple):
                now[name] = meaning[1]
            elif mine[0].kind == AUDIENCE and name in was and not keep:
                now[name] = False
        if keep:
            now[name] = was[name]
    somebody = any(
        meaning is True or isinstance(meaning, tuple)
        for key, (meaning, _) in newest.items()
        if key not in PROBLEMS
    )
    if before is None and not somebody:
        now = {}
    after = State(
        now,
        _pulled(profile["name"][0], before.name if before else None),
        _pulled(profile["email"][0], before.email if before else None),
        before.stamps if before else None,
    )

    changes = []
    for trait in TRAITS:
        sums = expected.sums[trait.key]
        has_row = trait.key in newest
        if trait.key in PROBLEMS or (has_row and newest[trait.key][0] == "garbage"):
            sums.pulled += has_row
            if has_row:
                sums.reasons[PROBLEMS.get(trait.key, "not a boolean")] += 1
            continue
        old, other = was.get(trait.name), now.get(trait.name)
        if is_same(old, other):
            sums.pulled += has_row
            sums.unchanged += has_row
            continue
        sums.pulled += 1
        sums.vanished += not has_row
        if trait.kind == AUDIENCE and other is True:
            sums.entered += 1
        elif trait.kind == AUDIENCE and old is True:
            sums.exited += 1
        else:
            sums.changed += 1
            sums.dropped += trait.kind == COMPUTED_TRAIT and other is None
        at = newest[trait.key][1] if has_row else None
        changes.append(TraitChange(trait.key, trait.name, old, other, at))

    if before is None:
        if somebody:
            expected.new.add(customer_id)
            expected.states[customer_id] = after
            expected.changes[customer_id] = changes
    elif changes or (after.name, after.email) != (before.name, before.email):
        expected.changed.add(customer_id)
        expected.states[customer_id] = after
        expected.changes[customer_id] = changes
    else:
        expected.unchanged.add(customer_id)


def _pulled(row: str | None, before: str | None) -> str | None:
    """A name or email: an explicit null ("" here) takes away what we had."""
    if row is None or (row == "" and before is None):
        return before
    return row


def applied(world: World, changes: Iterable[CustomerChange]) -> dict[str, State]:
    states = dict(world.snapshot)
    for change in changes:
        before = states.get(change.customer_id, State({}))
        states[change.customer_id] = State(
            change.traits,
            before.name if change.name is None else change.name,
            before.email if change.email is None else change.email,
            before.stamps,
        )
    return states


def whole(world: World) -> tuple[list[CustomerChange], Tally]:
    return run(world.rows(), world.known())


def told(change: CustomerChange) -> tuple[str, list[str]]:
    """A customer's changes as comparable text (1 is not True)."""
    return change.customer_id, [json.dumps(trait_change) for trait_change in change.changes]


def states_changes_and_sums_are_those_of_the_oracle(world: World) -> None:
    changes, tally = whole(world)
    expected = oracle(world)
    states = applied(world, changes)
    assert is_same(
        {customer_id: vars(state) for customer_id, state in states.items()},
        {customer_id: vars(state) for customer_id, state in expected.states.items()},
    )
    assert {change.customer_id for change in changes if not change.known} == expected.new
    assert {change.customer_id for change in changes if change.known} == expected.changed
    for change in changes:
        want = sorted(
            expected.changes[change.customer_id], key=lambda trait_change: trait_change.trait
        )
        assert told(change)[1] == [json.dumps(trait_change) for trait_change in want]
    assert tally.sums == expected.sums
    assert (tally.new, tally.changed, tally.unchanged) == (
        len(expected.new),
        len(expected.changed),
        len(expected.unchanged),
    )


def a_partial_pull_gives_the_changes_of_its_own_customers(world: World) -> None:
    tally = Tally(make_catalog())
    snapshot = {stored.customer_id: stored for stored in world.known()}
    pairs = look_up(
        world.rows(), lambda ids: [snapshot[id_] for id_ in ids if id_ in snapshot], at_a_time=2
    )
    changes = list(compare(pairs, tally.catalog, tally, JUNE_MS, whole=False))
    expected = oracle(world, whole=False)
    assert {change.customer_id for change in changes} == expected.new | expected.changed
    assert tally.sums == expected.sums
    assert tally.unchanged == len(expected.unchanged)


def the_changes_of_a_customer_are_the_difference_of_its_traits(world: World) -> None:
    """Nothing may go to Amberflo that the history does not tell, nor the other way round."""
    for change in whole(world)[0]:
        assert change.known == (change.customer_id in world.snapshot)
        state = world.snapshot.get(change.customer_id, State({}))
        before = state.traits
        if change.known:
            assert change.name is None or change.name != state.name
            assert change.email is None or change.email != state.email
        differing = {
            name
            for name in {*before, *change.traits}
            if not is_same(before.get(name), change.traits.get(name))
        }
        assert [trait_change.trait for trait_change in change.changes] == sorted(differing)
        for trait_change in change.changes:
            assert is_same(trait_change.before, before.get(trait_change.trait))
            assert is_same(trait_change.after, change.traits.get(trait_change.trait))


def the_sums_close(world: World) -> None:
    """docs/design.md §3.8: pulled = unchanged + entered + exited + changed + skipped, by trait."""
    changes, tally = whole(world)
    for sums in tally.sums.values():
        parts = (sums.unchanged, sums.entered, sums.exited, sums.changed, sums.skipped)
        assert sums.pulled == sum(parts)
        assert min(parts) >= 0
        assert sums.dropped <= sums.changed
        assert sums.vanished <= sums.differing
    differing = Counter(trait_change.key for change in changes for trait_change in change.changes)
    assert differing == Counter({key: s.differing for key, s in tally.sums.items() if s.differing})
    assert tally.customers == len(world.pull)
    assert tally.rows == sum(len(r.traits) + len(r.profile) for r in world.pull.values())
    assert len(changes) == tally.new + tally.changed
    ids = [change.customer_id for change in changes]
    assert ids == [customer_id for customer_id, _ in in_order(dict.fromkeys(ids))]


def comparing_again_after_the_changes_finds_none(world: World) -> None:
    changes, _ = whole(world)
    again, tally = whole(World(world.pull, applied(world, changes)))
    assert again == []
    assert (tally.new, tally.changed) == (0, 0)
    assert all(sums.differing == 0 for sums in tally.sums.values())


def the_fast_path_gives_what_the_slow_one_gives(world: World) -> None:
    """Texts that are equal JSON but not equal text take the slow path."""
    fast, fast_tally = whole(world)
    slow, slow_tally = run(
        world.rows(), [stored._replace(traits=" " + stored.traits) for stored in world.known()]
    )
    assert [told(change) for change in slow] == [told(change) for change in fast]
    assert slow == fast
    assert slow_tally.sums == fast_tally.sums
    assert slow_tally.unchanged == fast_tally.unchanged


def how_many_readings_are_remembered_changes_nothing(world: World) -> None:
    changes, tally = whole(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogs, "READINGS", 1)
        few, few_tally = whole(world)
    assert [told(change) for change in few] == [told(change) for change in changes]
    assert few == changes
    assert few_tally.sums == tally.sums


#: What holds of any world. They share the worlds: to draw one costs more than to look at it.
PROPERTIES = [
    states_changes_and_sums_are_those_of_the_oracle,
    a_partial_pull_gives_the_changes_of_its_own_customers,
    the_changes_of_a_customer_are_the_difference_of_its_traits,
    the_sums_close,
    comparing_again_after_the_changes_finds_none,
    the_fast_path_gives_what_the_slow_one_gives,
    how_many_readings_are_remembered_changes_nothing,
]


@examples(50)
@given(worlds())
def test_what_holds_of_any_world(world: World) -> None:
    for holds in PROPERTIES:
        holds(world)


@pytest.mark.parametrize(
    "sent",
    [
        True,
        False,
    ],
)
def test_memory_stays_flat_however_many_sets_of_keys_there_are(
    monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    """Sparse audiences make as many sets of keys as customers."""
    tally = Tally(make_catalog())
    monkeypatch.setattr(catalogs, "LAYOUTS", 1000)
    monkeypatch.setattr(comparison, "KEYS_COUNTED", 2 * (len(tally.catalog.by_key) + 1))
    keys = ("vip", ORDERS, "lost")
    sets = [[key, *others] for key in keys for others in ([], ["total"], ["Tags"]) for _ in "12"]
    ids = [f"u{number:02}" for number in range(len(sets))]
    most = 0

    def rows() -> Iterable[PulledCustomer]:
        nonlocal most
        for customer_id, own_keys in zip(ids, sets, strict=True):
            yield pulled(customer_id, *((key, None, MAY) for key in own_keys))
            most = max(most, len(tally.unchanged_layouts))

    snapshot = [known(customer_id, {}) for customer_id in ids] if sent else []
    assert list(compare(merge(rows(), snapshot), tally.catalog, tally)) == []
    assert sum(sums.pulled for sums in tally.sums.values()) == sum(map(len, sets))
    assert most <= 3
