"""Which keys are ours, and of which kind each is (docs/design.md §3.2)."""

from __future__ import annotations

import pytest

from syncer.engage.catalog import KnownTrait
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.source import ObservedKey
from tests.unit.catalog.helpers import booleans, catalog_of, kinds, seen

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
    catalog = catalog_of(observed, computed_traits=["is_*", "tot*"], listed=listed)
    assert kinds(catalog) == {
        "vip": AUDIENCE,
        "is_rich": AUDIENCE,
        "total": COMPUTED_TRAIT,
        "x": AUDIENCE,
    }
    assert catalog_of(observed, audiences=["v*"], listed=listed).keys == ["vip"]
    assert not catalog.unlisted
    assert catalog.ignored == []


def test_what_is_not_listed_is_a_custom_trait() -> None:
    observed = [*booleans("vip", "has_cat", "has_pet"), seen("plan", others=9)]
    catalog = catalog_of(observed, listed={"vip": AUDIENCE})
    assert catalog.keys == ["vip"]
    assert catalog.ignored == ["has_cat", "has_pet"]
    assert catalog.messages == []


def test_what_was_ours_and_is_not_listed_is_lost() -> None:
    known = [KnownTrait("gone", "gone", AUDIENCE), KnownTrait("vip", "vip", AUDIENCE)]
    catalog = catalog_of(booleans("gone", "vip"), known, listed={"vip": AUDIENCE})
    assert catalog.keys == ["vip"]
    assert catalog.by_key.keys() == {"gone", "vip"}
    assert catalog.unlisted == {"gone"}
    assert catalog.ignored == []
    # What is listed and has no rows is lost too, but not deleted.
    assert catalog_of([], known, listed={"vip": AUDIENCE}).unlisted == {"gone"}
    assert not catalog_of([], known).unlisted


def test_a_new_key_takes_the_name_of_one_that_is_not_listed() -> None:
    known = [KnownTrait("Vip", "vip", AUDIENCE)]
    catalog = catalog_of(booleans("Vip", "vip"), known, listed={"vip": AUDIENCE})
    assert catalog.by_name == {"vip": KnownTrait("vip", "vip", AUDIENCE)}
    assert not catalog.unlisted


def test_steps_of_journeys_are_memberships_that_are_not_listed() -> None:
    """They are no audiences of the Public API, and no custom traits."""
    observed = [*booleans("j_o_a__b", "j_o_c__d"), seen("j_o_text", others=1)]
    known = [KnownTrait("j_o_old__e", "j_o_old__e", AUDIENCE)]
    catalog = catalog_of(observed, known, listed={"j_o_c__d": COMPUTED_TRAIT})
    assert catalog.keys == ["j_o_a__b"]
    assert not catalog.unlisted


@pytest.mark.parametrize("kind", [AUDIENCE, COMPUTED_TRAIT])
def test_name_and_email_are_no_traits_whatever_is_listed(kind: Kind) -> None:
    listed = dict.fromkeys(("name", "email"), kind)
    assert catalog_of(booleans("name", "email"), computed_traits=["*"], listed=listed).keys == []
