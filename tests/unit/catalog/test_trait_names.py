"""The names of keys: two keys that want one, keys without one, and names that were given back
(docs/design.md §3.2)."""

from __future__ import annotations

import pytest

from syncer.engage.catalog import KnownTrait
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from tests.unit.catalog.helpers import booleans, catalog_of, kinds, seen

# Two keys that give one name; keys that give none (docs/design.md §3.2)


def test_two_keys_with_one_name_are_both_left_out_and_named() -> None:
    catalog = catalog_of(booleans("VIP Club", "vip_club", "other"))
    assert set(catalog.problems) == {"VIP Club", "vip_club"}
    assert set(catalog.by_name) == {"other"}
    assert set(catalog.by_key) == {"VIP Club", "vip_club", "other"}
    (message,) = catalog.messages
    assert "'VIP Club' and 'vip_club'" in message
    assert "engage.audiences" in message
    assert "\n" not in message


def test_an_audience_and_a_computed_trait_can_collide_too() -> None:
    catalog = catalog_of(booleans("Total", "total"), computed_traits=["total"])
    assert set(catalog.problems) == {"Total", "total"}
    assert catalog.by_name == {}


def test_three_keys_with_one_name_are_one_message() -> None:
    catalog = catalog_of(booleans("A b", "a_b", "a-b"))
    assert set(catalog.problems) == {"A b", "a_b", "a-b"}
    (message,) = catalog.messages
    assert "'A b' and 'a-b' and 'a_b'" in message


def test_a_key_takes_the_name_of_a_lost_one() -> None:
    """The trait at Amberflo is the same, and so its members are now the new key's."""
    lost = KnownTrait("VIP Club", "vip_club", AUDIENCE)
    catalog = catalog_of(booleans("vip_club"), [lost])
    assert (catalog.problems, catalog.messages) == ({}, [])
    assert catalog.keys == ["vip_club"]
    assert catalog.by_name["vip_club"].key == "vip_club"


def test_two_keys_that_want_the_name_of_a_lost_one_collide() -> None:
    lost = KnownTrait("VIP-Club", "vip_club", AUDIENCE)
    catalog = catalog_of(booleans("vip_club", "VIP Club"), [lost])
    assert set(catalog.problems) == {"vip_club", "VIP Club"}
    assert catalog.by_name == {}


def test_who_has_a_name_keeps_it_against_a_newcomer() -> None:
    """One profile with a custom trait must not freeze an audience for everybody."""
    vip = KnownTrait("vip", "vip", AUDIENCE)
    catalog = catalog_of(booleans("VIP", "vip", "Vip"), [vip])
    assert catalog.by_name == {"vip": vip}
    assert catalog.problems == {"VIP": "name taken twice", "Vip": "name taken twice"}
    assert (catalog.messages, catalog.renamed) == ([], {})
    assert [("'VIP'" in notice, "'Vip'" in notice) for notice in catalog.notices] == [
        (True, False),
        (False, True),
    ]
    assert all("'vip'" in notice and "engage.audiences" in notice for notice in catalog.notices)
    reading = catalog.read('["VIP","vip"]', '["true","false"]')
    assert reading.traits == {"vip": False}
    assert reading.skipped == [("VIP", "name taken twice")]


def test_a_name_goes_over_where_its_key_is_gone_or_left_out() -> None:
    old = KnownTrait("VIP Club", "vip_club", AUDIENCE)
    new = KnownTrait("vip_club", "vip_club", AUDIENCE)
    for observed, globs in (
        (booleans("vip_club"), ["*"]),
        (booleans("vip_club", "VIP Club"), ["*", "!VIP*"]),
    ):
        catalog = catalog_of(observed, [old], audiences=globs)
        assert catalog.renamed == {"VIP Club": new}
        assert (kinds(catalog), catalog.left_out, catalog.notices) == (
            {"vip_club": AUDIENCE},
            [],
            [],
        )


def test_a_name_that_two_want_goes_over_to_nobody() -> None:
    catalog = catalog_of(
        booleans("vip_club", "VIP Club"), [KnownTrait("VIP-Club", "vip_club", AUDIENCE)]
    )
    assert catalog.renamed == {}
    assert catalog.left_out == []


def test_a_key_without_a_name_is_left_out_and_named() -> None:
    catalog = catalog_of(booleans("会员", "¿?", "vip"))
    assert set(catalog.problems) == {"会员", "¿?"}
    assert set(catalog.by_name) == {"vip"}
    assert len(catalog.messages) == 2
    assert all(any(repr(key) in message for message in catalog.messages) for key in ("会员", "¿?"))


# What the config leaves out, and what was given back


@pytest.mark.parametrize("audiences", [["vip_*"], ["*", "!beta"], []])
@pytest.mark.parametrize("observed", [True, False])
def test_a_known_key_that_the_config_leaves_out_stays_as_it_is(
    audiences: list[str], observed: bool
) -> None:
    """It is nothing that was lost: no run reads, changes or holds it."""
    beta = KnownTrait("beta", "beta", AUDIENCE)
    catalog = catalog_of(
        booleans("vip_a", *(["beta"] if observed else [])),
        [beta],
        audiences=audiences,
        members={"beta": 3},
    )
    assert "beta" not in {*catalog.keys, *catalog.by_key, *catalog.by_name}
    assert catalog.left_out == [beta]
    assert catalog.notices == [
        "beta is left out by engage.audiences: its 3 members stay as they are at Amberflo; "
        "`syncer traits release beta` gives it back"
    ]
    assert (catalog.messages, catalog.problems, list(catalog.unlisted)) == ([], {}, [])


def test_what_is_listed_as_another_kind_than_the_config_takes_is_left_out() -> None:
    known = [KnownTrait("total", "total", COMPUTED_TRAIT), KnownTrait("gone", "gone", AUDIENCE)]
    listed: dict[str, Kind] = {"total": COMPUTED_TRAIT}
    catalog = catalog_of([seen("total", others=5)], known, listed=listed)
    assert catalog.left_out == known[:1]
    assert catalog.unlisted == {"gone"}, "of that one the config says nothing"


def test_what_was_given_back_is_taken_again_by_its_own_name_only() -> None:
    released = [KnownTrait("plan", "plan", AUDIENCE)]
    for globs, taken in ((["*"], []), (["pla?"], []), (["*", "plan"], ["plan"])):
        catalog = catalog_of(booleans("plan"), audiences=globs, released=released)
        assert catalog.keys == taken
        assert (catalog.notices, catalog.left_out, catalog.renamed) == ([], [], {})
    listed: dict[str, Kind] = {"plan": AUDIENCE}
    assert catalog_of(booleans("plan"), released=released, listed=listed).keys == []
    computed = catalog_of([seen("plan", others=1)], computed_traits=["p*"], released=released)
    assert computed.keys == []


def test_a_name_that_was_given_back_is_not_taken_by_another_key() -> None:
    released = [KnownTrait("plan", "plan", AUDIENCE)]
    catalog = catalog_of(booleans("Plan"), released=released)
    assert catalog.keys == []
    (notice,) = catalog.notices
    assert notice.startswith("Plan: its name at Amberflo, 'plan', was given back")
    assert catalog_of(booleans("Plan"), audiences=["Plan"], released=released).keys == ["Plan"]
