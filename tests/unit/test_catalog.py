"""Which keys are ours and how a customer's rows read (docs/design.md §3.2, §3.3)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.engage import catalog as catalogs
from syncer.engage.catalog import Catalog, KnownTrait, Reading, newest
from syncer.engage.catalog_builder import build
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.source import ObservedKey
from syncer.errors import SourceError
from syncer.json_text import canonical

MAY, JUNE, JULY = "2024-05-01T00:00:00Z", "2024-06-01 00:00:00+00", "2024-07-01T00:00:00"


def seen(key: str, *, words: int = 0, digits: int = 0, others: int = 0, nulls: int = 0) -> Any:
    return ObservedKey(key, words + digits + others + nulls, words, digits, others)


def booleans(*keys: str) -> list[ObservedKey]:
    return [seen(key, words=9) for key in keys]


def catalog_of(
    observed: Collection[ObservedKey],
    known: Collection[KnownTrait] = (),
    audiences: Collection[str] = ("*",),
    computed_traits: Collection[str] = (),
    listed: Mapping[str, Kind] | None = None,
    **more: Any,
) -> Catalog:
    globs = {"audiences": audiences, "computed_traits": computed_traits}
    return build(observed, known, **globs, listed=listed, **more)


def kinds(catalog: Catalog) -> dict[str, Kind]:
    return {trait.key: trait.kind for trait in catalog.by_key.values()}


# Kinds


def test_a_boolean_key_that_matches_is_an_audience_under_its_name() -> None:
    catalog = catalog_of(booleans("Order Completed Last 30days", "j_o_jons__step_1"))
    assert catalog.by_key == {
        "Order Completed Last 30days": KnownTrait(
            "Order Completed Last 30days", "order_completed_last_30days", AUDIENCE
        ),
        "j_o_jons__step_1": KnownTrait("j_o_jons__step_1", "j_o_jons__step_1", AUDIENCE),
    }
    assert set(catalog.by_name) == {"order_completed_last_30days", "j_o_jons__step_1"}
    assert catalog.keys == sorted(catalog.by_key)
    assert (catalog.problems, catalog.messages) == ({}, [])


def test_computed_traits_are_looked_at_first() -> None:
    """docs/design.md §3.3: even where the value is boolean and the key matches `audiences` too."""
    catalog = catalog_of(booleans("is_rich", "vip"), computed_traits=["is_*"])
    assert kinds(catalog) == {"is_rich": COMPUTED_TRAIT, "vip": AUDIENCE}


def test_a_computed_trait_may_have_any_values() -> None:
    catalog = catalog_of(
        [seen("total", others=5), seen("flag", words=1), seen("empty", nulls=3)],
        audiences=[],
        computed_traits=["*"],
    )
    assert set(kinds(catalog).values()) == {COMPUTED_TRAIT}
    assert catalog.keys == ["empty", "flag", "total"]


def test_name_and_email_are_never_traits() -> None:
    catalog = catalog_of(booleans("name", "email", "Name", "vip"), computed_traits=["name", "em*"])
    assert catalog.keys == ["Name", "vip"]


@pytest.mark.parametrize("key", ["hidden_entry", "hidden_entry_rule_7"])
def test_internals_of_journeys_are_never_traits(key: str) -> None:
    """docs/facts/segment.md §1.3."""
    assert catalog_of(booleans(key), computed_traits=["hidden*"]).keys == []


def test_a_key_that_is_only_like_an_internal_one_is_a_trait() -> None:
    assert catalog_of(booleans("my_hidden_entry", "hidden_entr")).keys == [
        "hidden_entr",
        "my_hidden_entry",
    ]


@pytest.mark.parametrize(
    ("patterns", "matched"),
    [
        (["*"], {"vip_gold", "vip_silver", "VIP_gold", "other"}),
        (["vip_*"], {"vip_gold", "vip_silver"}),
        (["vip_gold", "oth?r"], {"vip_gold", "other"}),
        (["[!v]*"], {"VIP_gold", "other"}),
        (["vip"], set()),
        ([], set()),
    ],
)
def test_keys_are_matched_whole_by_globs_that_see_case(
    patterns: list[str], matched: set[str]
) -> None:
    observed = booleans("vip_gold", "vip_silver", "VIP_gold", "other")
    assert set(catalog_of(observed, audiences=patterns).keys) == matched
    computed = catalog_of(observed, audiences=[], computed_traits=patterns)
    assert set(computed.keys) == matched


@pytest.mark.parametrize(
    ("observed", "audience"),
    [
        (seen("a", words=1), True),
        (seen("a", words=5, digits=5, nulls=3), True),
        (seen("a", words=1, others=1000), False),
        (seen("a", words=1000, others=1), False),
        (seen("a", words=1, digits=1, others=1), False),
        (seen("a", digits=1), False),
        (seen("a", digits=5, nulls=3), False),
        (seen("a", words=1, digits=99), True),
        (seen("a", digits=1000, others=1), False),
        (seen("a", others=9), False),
        (seen("a", nulls=9), False),
    ],
)
def test_a_key_is_an_audience_when_all_its_values_are_boolean(
    observed: ObservedKey, audience: bool
) -> None:
    """One stray value makes no audience of a text, for everybody and for ever."""
    assert catalog_of([observed]).keys == (["a"] if audience else [])


@pytest.mark.parametrize(
    "observed", [seen("a", others=9), seen("a", nulls=9), seen("a", words=1, others=9)]
)
def test_what_the_config_names_exactly_is_an_audience(observed: ObservedKey) -> None:
    assert kinds(catalog_of([observed], audiences=["b*", "a"])) == {"a": AUDIENCE}
    assert kinds(catalog_of([observed], audiences=["*", "a", "!a"])) == {}


@pytest.mark.parametrize(
    "observed", [seen("a", others=9), seen("a", nulls=9), seen("a", words=8, others=1)]
)
def test_a_known_audience_stays_one(observed: ObservedKey) -> None:
    catalog = catalog_of([observed], [KnownTrait("a", "a", AUDIENCE)])
    assert kinds(catalog) == {"a": AUDIENCE}


def test_values_that_are_no_booleans_are_told_with_their_number() -> None:
    known = [KnownTrait("a b", "a_b", AUDIENCE)]
    observed = [seen("a b", words=297, others=3, nulls=50), seen("vip", words=3, nulls=9)]
    (notice,) = catalog_of(observed, known).notices
    assert notice.startswith("a b: 3 of 300 values are not booleans: they are skipped")
    assert "`syncer traits release 'a b'`" in notice
    assert catalog_of([seen("a", words=1, others=2)], audiences=["a"]).notices


def test_a_new_key_with_some_boolean_values_is_told() -> None:
    catalog = catalog_of([seen("plan", words=1, others=299, nulls=7), seen("city", others=300)])
    assert catalog.notices == [
        "plan: 1 of 300 values are booleans: it is not an audience; name it in engage.audiences "
        "exactly if it is one"
    ]
    assert catalog.messages == []


def test_a_count_is_not_told_where_it_cannot_be_an_audience() -> None:
    """Some 1 and 0 among other numbers; were these most of them, somebody should know."""
    assert catalog_of([seen("visits", digits=40, others=260)]).notices == []
    assert "visits: 260 of 300" in catalog_of([seen("visits", digits=260, others=40)]).notices[0]


def test_ones_and_zeros_alone_may_be_a_count_until_the_config_says_more() -> None:
    observed = [seen("logins", digits=4), seen("vip", words=2, digits=2), seen("in", digits=9)]
    catalog = catalog_of(observed)
    (notice,) = catalog.notices
    assert notice.startswith("in, logins: the only values are 1 and 0, which may be a count")
    assert catalog.keys == ["vip"]
    for globs in (["logins", "in"], ["*", "log*", "i?"]):
        catalog = catalog_of(observed, audiences=globs)
        assert {"logins", "in"} <= set(catalog.keys)
        assert catalog.notices == []
    assert catalog_of(observed, audiences=["*", "!in", "i*"]).keys == ["vip"]
    known = [KnownTrait(key, key, AUDIENCE) for key in ("logins", "in")]
    assert catalog_of(observed, known).notices == []
    assert catalog_of(observed, computed_traits=["logins", "in"]).notices == []


def test_the_public_api_says_what_ones_and_zeros_are() -> None:
    catalog = catalog_of([seen("in", digits=9)], listed={"in": AUDIENCE})
    assert (catalog.keys, catalog.notices) == (["in"], [])


def test_an_audience_of_which_nothing_can_be_read_is_a_problem() -> None:
    known = [KnownTrait(f"a{n:02}", f"a{n:02}", AUDIENCE) for n in range(12)]
    observed = [seen(trait.key, others=7, nulls=2) for trait in known]
    (message,) = catalog_of(observed[:1], known).messages
    assert message.startswith("a00: none of its 7 values is a boolean: its members stay")
    assert len(catalog_of(observed, known).messages) == 10 + 1
    assert catalog_of([seen("a00", words=1, others=7)], known).messages == []
    assert catalog_of([seen("a00", nulls=7)], known).messages == []


def test_notices_of_many_keys_are_few() -> None:
    """An identify call has any number of traits."""
    many = [seen(f"t{number:03}", words=1, others=9) for number in range(100)]
    notices = catalog_of([*many, *(seen(f"d{n:03}", digits=1) for n in range(100))]).notices
    assert len(notices) == 1 + 10 + 1
    assert "90 more" in notices[0]
    assert notices[-1] == "and 90 more keys with some values that are booleans"


def test_a_known_audience_keeps_its_name_while_its_values_say_nothing() -> None:
    catalog = catalog_of(
        [seen("VIP Club", nulls=9), *booleans("vip_club")],
        [KnownTrait("VIP Club", "vip_club", AUDIENCE)],
    )
    assert set(catalog.problems) == {"vip_club"}
    assert catalog.by_name["vip_club"].key == "VIP Club"


def test_a_known_computed_trait_is_no_evidence_for_an_audience() -> None:
    """Where the config names it no more it is left out."""
    total = KnownTrait("a", "a", COMPUTED_TRAIT)
    catalog = catalog_of([seen("a", others=9)], [total], members={"a": 4})
    assert (kinds(catalog), catalog.left_out) == ({}, [total])
    assert catalog.notices[0].startswith(
        "a is left out by engage.computed_traits: its 4 values stay as they are at Amberflo"
    )


def test_an_audience_that_the_config_makes_a_computed_trait_becomes_one() -> None:
    catalog = catalog_of(booleans("a"), [KnownTrait("a", "a", AUDIENCE)], computed_traits=["a"])
    assert kinds(catalog) == {"a": COMPUTED_TRAIT}


def test_a_trait_that_the_source_lost_stays_ours() -> None:
    """Only so can its vanished rows be told from a trait of somebody else."""
    lost = KnownTrait("Gone", "gone", AUDIENCE)
    catalog = catalog_of(booleans("vip"), [lost])
    assert catalog.by_key["Gone"] == lost
    assert catalog.by_name["gone"] == lost
    assert catalog.keys == ["vip"], "there is nothing of it to pull"
    assert (catalog.problems, catalog.messages) == ({}, [])


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
    assert [("'VIP'" in one, "'Vip'" in one) for one in catalog.notices] == [
        (True, False),
        (False, True),
    ]
    assert all("'vip'" in one and "engage.audiences" in one for one in catalog.notices)
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


# Reading a customer's rows


def read(catalog: Catalog, **rows: object) -> Reading:
    return catalog.read(json.dumps(list(rows)), json.dumps(list(rows.values())))


@pytest.fixture
def catalog() -> Catalog:
    return catalog_of(
        [*booleans("Vip", "trial", "Gold Club", "gold_club"), seen("total", others=2)],
        computed_traits=["total"],
    )


def test_values_read_by_the_kind_of_their_key(catalog: Catalog) -> None:
    reading = read(catalog, Vip="t", trial=0, total="450.00")
    assert reading.traits == {"vip": True, "trial": False, "total": 450.0}
    assert reading.traits["vip"] is True
    assert reading.text == '{"total":450.0,"trial":false,"vip":true}'
    assert (list(reading.nulls), list(reading.skipped)) == ([], [])
    assert reading.somebody


def test_a_one_is_a_number_where_the_key_is_a_computed_trait(catalog: Catalog) -> None:
    reading = read(catalog, Vip="1", total="1")
    assert reading.text == '{"total":1,"vip":true}'


@pytest.mark.parametrize("null", [None, "", " ", "null"])
def test_rows_without_a_value_are_told_apart(catalog: Catalog, null: object) -> None:
    reading = read(catalog, Vip=null, total=null)
    assert list(reading.nulls) == ["Vip", "total"]
    assert (reading.traits, list(reading.skipped)) == ({}, [])
    assert not reading.somebody


@pytest.mark.parametrize("garbage", ["perhaps", 7, [True], "1.5"])
def test_an_audience_value_that_is_no_boolean_is_skipped(catalog: Catalog, garbage: object) -> None:
    reading = read(catalog, Vip=garbage, trial="true")
    assert list(reading.skipped) == [("Vip", "not a boolean")]
    assert reading.traits == {"trial": True}


def test_keys_with_a_problem_are_skipped_for_it(catalog: Catalog) -> None:
    keys, values = '["Gold Club","gold_club"]', '["true",null]'
    reading = catalog.read(keys, values)
    assert dict(reading.skipped) == catalog.problems
    assert set(catalog.problems.values()) == {"name taken twice"}
    assert (reading.traits, list(reading.nulls)) == ({}, [])
    nameless = catalog_of(booleans("会员")).read('["会员"]', "[true]")
    assert list(nameless.skipped) == [("会员", "no name")]


def test_a_key_that_is_not_ours_is_skipped(catalog: Catalog) -> None:
    reading = read(catalog, plan="true", Vip="f")
    assert list(reading.skipped) == [("plan", "not ours")]
    assert reading.traits == {"vip": False}


@pytest.mark.parametrize(
    ("rows", "somebody"),
    [
        ({"Vip": "true"}, True),
        ({"Vip": "false", "trial": "true"}, True),
        ({"total": "0"}, True),
        ({"total": "false"}, True),
        ({"Vip": "false", "trial": "T"}, True),
        ({"Vip": "1", "trial": 0}, True),
        ({"Vip": "false", "trial": "false"}, False),
        ({"Vip": "0", "trial": "F"}, False),
        ({"Vip": False, "trial": 0}, False),
        ({"Vip": "false", "total": None}, False),
        ({"Vip": "perhaps"}, False),
        ({}, False),
    ],
)
def test_who_is_somebody_to_send(catalog: Catalog, rows: dict[str, object], somebody: bool) -> None:
    """docs/design.md §3.4: in at least one audience, or with a computed trait."""
    assert read(catalog, **rows).somebody is somebody


def test_a_key_that_stands_twice_is_not_read(catalog: Catalog) -> None:
    reading = catalog.read('["Vip","total","Vip"]', '["true","5","false"]')
    assert reading.layout.twice
    assert reading.traits == {}
    assert not read(catalog, Vip="t", total="5").layout.twice


def test_rows_of_different_length_are_an_error(catalog: Catalog) -> None:
    with pytest.raises(SourceError, match="1 values of 2 keys"):
        catalog.read('["Vip","total"]', '["true"]')


def test_equal_rows_are_read_once(catalog: Catalog) -> None:
    assert read(catalog, Vip="t") is read(catalog, Vip="t")
    assert read(catalog, Vip="t") is not read(catalog, Vip="true")


def test_remembered_readings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "READINGS", 5000)
    small = catalog_of(booleans("a"))
    first = read(small, a="t")
    assert read(small, a="t") is first
    for value in range(20):
        read(small, a=f"{value}")
    assert read(small, a="t") is not first


def test_a_reading_larger_than_all_that_is_remembered_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogs, "READINGS", 5000)
    monkeypatch.setattr(catalogs, "LAYOUTS", 0)
    small = catalog_of([*booleans("a"), seen("total", others=1)], computed_traits=["total"])
    first = read(small, a="t")
    assert read(small, total="x" * 5000).traits == {"total": "x" * 5000}
    assert read(small, a="t").traits == first.traits


@given(st.dictionaries(st.text(max_size=5), st.booleans() | st.integers(-9, 9) | st.text()))
def test_canonical_text_does_not_depend_on_the_order(traits: dict[str, bool | int | str]) -> None:
    turned = dict(reversed(traits.items()))
    assert canonical({**traits}) == canonical({**turned})
    assert json.loads(canonical({**traits})) == traits


# The newest row of a key (docs/design.md §3.1)


def newest_of(*rows: tuple[str, object, object]) -> dict[str, tuple[object, object]]:
    keys, values, times = newest(*(json.dumps([row[n] for row in rows]) for n in range(3)))
    found = zip(json.loads(keys), json.loads(values), json.loads(times), strict=True)
    return {key: (value, time) for key, value, time in found}


def test_the_newest_row_of_each_key_counts() -> None:
    found = newest_of(("a", "old", MAY), ("b", "only", MAY), ("a", "new", JULY), ("a", "mid", JUNE))
    assert found == {"a": ("new", JULY), "b": ("only", MAY)}


def test_times_are_compared_as_times_not_as_text() -> None:
    later, earlier = "2024-05-01 10:00:00+00:00", "2024-05-01T11:00:00+02:00"
    assert newest_of(("a", "x", later), ("a", "y", earlier)) == {"a": ("x", later)}


@pytest.mark.parametrize("time", [None, "", "soon"])
def test_a_time_that_cannot_be_read_is_oldest(time: str | None) -> None:
    for rows in ([("a", "x", MAY), ("a", "y", time)], [("a", "y", time), ("a", "x", MAY)]):
        assert newest_of(*rows) == {"a": ("x", MAY)}


def test_of_equal_times_the_later_place_counts() -> None:
    """The source orders rows of one time by `seq`."""
    same = "2024-05-01T02:00:00+02:00"
    assert newest_of(("a", "x", MAY), ("a", "y", same)) == {"a": ("y", same)}
    assert newest_of(("a", "x", None), ("a", "y", "soon")) == {"a": ("y", "soon")}


def test_what_newest_gives_reads_without_a_twin(catalog: Catalog) -> None:
    keys, values, _ = newest(
        '["Vip","total","Vip"]', '["true","5","false"]', json.dumps([MAY, MAY, JULY])
    )
    reading = catalog.read(keys, values)
    assert not reading.layout.twice
    assert reading.text == '{"total":5,"vip":false}'


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


# Where the Public API says what a key is (docs/facts/segment.md §1.2)


def test_a_key_is_what_it_is_listed_as_where_the_globs_for_that_match() -> None:
    observed = [*booleans("vip", "is_rich", "other"), seen("total", others=9), seen("x", others=1)]
    listed: dict[str, Kind] = {
        "vip": AUDIENCE,
        "is_rich": AUDIENCE,
        "other": COMPUTED_TRAIT,
        "total": COMPUTED_TRAIT,
        "x": AUDIENCE,
        "not pulled": AUDIENCE,
    }
    found = catalog_of(observed, computed_traits=["is_*", "tot*"], listed=listed)
    assert kinds(found) == {
        "vip": AUDIENCE,
        "is_rich": AUDIENCE,
        "total": COMPUTED_TRAIT,
        "x": AUDIENCE,
    }
    assert catalog_of(observed, audiences=["v*"], listed=listed).keys == ["vip"]
    assert not found.unlisted
    assert found.ignored == []


def test_what_is_not_listed_is_a_custom_trait() -> None:
    observed = [*booleans("vip", "has_cat", "has_pet"), seen("plan", others=9)]
    found = catalog_of(observed, listed={"vip": AUDIENCE})
    assert found.keys == ["vip"]
    assert found.ignored == ["has_cat", "has_pet"]
    assert found.messages == []


def test_what_was_ours_and_is_not_listed_is_lost() -> None:
    known = [KnownTrait("gone", "gone", AUDIENCE), KnownTrait("vip", "vip", AUDIENCE)]
    found = catalog_of(booleans("gone", "vip"), known, listed={"vip": AUDIENCE})
    assert found.keys == ["vip"]
    assert found.by_key.keys() == {"gone", "vip"}
    assert found.unlisted == {"gone"}
    assert found.ignored == []
    # What is listed and has no rows is lost too, but not deleted.
    assert catalog_of([], known, listed={"vip": AUDIENCE}).unlisted == {"gone"}
    assert not catalog_of([], known).unlisted


def test_a_new_key_takes_the_name_of_one_that_is_not_listed() -> None:
    known = [KnownTrait("Vip", "vip", AUDIENCE)]
    found = catalog_of(booleans("Vip", "vip"), known, listed={"vip": AUDIENCE})
    assert found.by_name == {"vip": KnownTrait("vip", "vip", AUDIENCE)}
    assert not found.unlisted


def test_steps_of_journeys_are_memberships_that_are_not_listed() -> None:
    """They are no audiences of the Public API, and no custom traits."""
    observed = [*booleans("j_o_a__b", "j_o_c__d"), seen("j_o_text", others=1)]
    known = [KnownTrait("j_o_old__e", "j_o_old__e", AUDIENCE)]
    found = catalog_of(observed, known, listed={"j_o_c__d": COMPUTED_TRAIT})
    assert found.keys == ["j_o_a__b"]
    assert not found.unlisted


@pytest.mark.parametrize("kind", [AUDIENCE, COMPUTED_TRAIT])
def test_name_and_email_are_no_traits_whatever_is_listed(kind: Kind) -> None:
    listed = dict.fromkeys(("name", "email"), kind)
    assert catalog_of(booleans("name", "email"), computed_traits=["*"], listed=listed).keys == []
