"""A customer's record at Amberflo (docs/design.md §3.5)."""

from __future__ import annotations

import copy
import tracemalloc
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncer.amberflo.record import SERVER_OWNED, at_amberflo, holds_already, merged
from syncer.delivery.desired import differences, ours_at_amberflo, to_put

#: What Amberflo may hold: fields of its own, of other integrations, and ours.
STRIPE = {
    "customerId": "u1",
    "customerName": "Ada",
    "customerEmail": "ada@example.com",
    "description": "an early one",
    "lifecycleStage": "ACTIVE",
    "enabled": True,
    "test": False,
    "address": {"line1": "1 a/b Street", "country": "US"},
    "traits": {"stripeId": "cus_1", "payment.netDays": "30", "vip": "true", "old_one": "true"},
    "id": "u1",
    "createTime": 1,
    "updateTime": 2,
    "deleteTime": 3,
    "deactivateTimeStamp": 4,
}
OWNED = ["vip", "old_one", "total"]


def record(current: dict[str, Any] | None = None, **changed: Any) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "customer_id": "u1",
        "traits": {},
        "name": None,
        "email": None,
        "owned": OWNED,
    }
    return merged(current, **(wanted | changed))


def test_the_identify_example_of_segment() -> None:
    """The destination's own documentation: docs/facts/segment.md §7."""
    avatar = "https://s3.amazonaws.com/uifaces/faces/twitter/scottkclark/128.jpg"
    traits = {
        "plan": "premium",
        "logins": 5,
        "phone": "650-769-3240",
        "username": "marakasina",
        "website": "example.com",
        "avatar": avatar,
    }
    assert merged(
        None,
        customer_id="some_user_id",
        traits=traits,
        name="John Doe",
        email="john.doe@email.com",
        owned=traits,
    ) == {
        "customerId": "some_user_id",
        "customerName": "John Doe",
        "customerEmail": "john.doe@email.com",
        "traits": {
            "plan": "premium",
            "logins": 5,
            "phone": "650-769-3240",
            "username": "marakasina",
            "website": "example.com",
            "avatar": "https:__s3.amazonaws.com_uifaces_faces_twitter_scottkclark_128.jpg",
        },
    }


@pytest.mark.parametrize("current", [None, {}])
def test_a_new_customer_needs_no_more_than_its_id(current: dict[str, Any] | None) -> None:
    """Amberflo requires a name, so it falls back to the id; there is no blank email."""
    assert record(current) == {"customerId": "u1", "customerName": "u1", "traits": {}}


def test_what_others_put_there_survives() -> None:
    put = record(STRIPE, traits={"vip": False})
    assert put == {
        "customerId": "u1",
        "customerName": "Ada",
        "customerEmail": "ada@example.com",
        "description": "an early one",
        "lifecycleStage": "ACTIVE",
        "enabled": True,
        "test": False,
        "address": {"line1": "1 a/b Street", "country": "US"},
        "traits": {"stripeId": "cus_1", "payment.netDays": "30", "vip": False},
    }


def test_fields_that_amberflo_keeps_itself_are_not_sent() -> None:
    assert {"id", "createTime", "updateTime", "deleteTime", "deactivateTimeStamp"} <= SERVER_OWNED
    assert not SERVER_OWNED & record(STRIPE).keys()


def test_fields_without_a_value_are_not_sent() -> None:
    assert record({"customerId": "u1", "address": None, "description": ""}) == {
        "customerId": "u1",
        "customerName": "u1",
        "description": "",
        "traits": {},
    }


def test_traits_that_are_ours_by_name_are_exactly_what_is_wanted() -> None:
    """One that Engage does not say of the customer goes with the next PUT."""
    assert record(STRIPE)["traits"] == {"stripeId": "cus_1", "payment.netDays": "30"}
    assert record(STRIPE, traits={"total": 4.5, "old_one": False})["traits"] == {
        "stripeId": "cus_1",
        "payment.netDays": "30",
        "old_one": False,
        "total": 4.5,
    }


def test_a_wanted_trait_wins_over_one_of_that_name_whoever_owns_it() -> None:
    assert record({"traits": {"vip": "no"}}, traits={"vip": True}, owned=[])["traits"] == {
        "vip": True
    }


@pytest.mark.parametrize("traits", [None, {}])
def test_a_record_may_have_no_traits(traits: dict[str, Any] | None) -> None:
    assert record({"customerId": "u1", "traits": traits}, traits={"vip": True})["traits"] == {
        "vip": True
    }


@pytest.mark.parametrize(
    ("ours", "theirs", "sent"),
    [
        ("Ada", None, "Ada"),
        ("Ada", "Eva", "Ada"),
        (None, "Eva", "Eva"),
        ("", "Eva", "u1"),
        (None, None, "u1"),
        (None, "", "u1"),
        (None, "  ", "u1"),
        (None, 5, "u1"),
        ("", "", "u1"),
    ],
)
def test_the_name_is_ours_else_the_one_there_else_the_id(
    ours: str | None, theirs: object, sent: str
) -> None:
    assert record({"customerName": theirs}, name=ours)["customerName"] == sent


@pytest.mark.parametrize(
    ("ours", "theirs", "sent"),
    [
        ("a@example.com", None, "a@example.com"),
        ("a@example.com", "b@example.com", "a@example.com"),
        (None, "b@example.com", "b@example.com"),
        ("", "b@example.com", None),  # taken away
        (None, None, None),
        (None, "", None),
        (None, " ", None),
    ],
)
def test_the_email_is_ours_else_the_one_there_else_none(
    ours: str | None, theirs: str | None, sent: str | None
) -> None:
    """Amberflo's SDKs refuse a blank email: it is left out."""
    put = record({"customerEmail": theirs}, email=ours)
    assert put.get("customerEmail") == sent
    assert ("customerEmail" in put) is (sent is not None)


def test_the_id_is_ours() -> None:
    assert record({"customerId": "other"})["customerId"] == "u1"


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("https://a.example/b|c", "https:__a.example_b_c"),
        ("plain", "plain"),
        (["a/b", "c|d", 1, True], ["a_b", "c_d", 1, True]),
        ([["a/b"], None, {"u": "x/y"}], ['["a_b"]', '{"u":"x_y"}']),
        (True, True),
        (0, 0),
        (450.0, 450.0),
    ],
)
def test_slashes_and_bars_in_values_become_underscores(value: Any, sent: Any) -> None:
    """As Segment's own destination does: docs/facts/segment.md §7. Types stay."""
    total = record(traits={"total": value})["traits"]["total"]
    assert total == sent
    assert type(total) is type(sent)


def test_slashes_in_objects_of_a_list_become_underscores_too() -> None:
    """Recommended items may be such (docs/facts/segment.md §3.2: their shape is not known)."""
    assert at_amberflo([{"url": "https://a.example"}]) == ['{"url":"https:__a.example"}']


@pytest.mark.parametrize("value", ["", "  ", None])
def test_a_blank_trait_is_not_sent(value: str | None) -> None:
    """Amberflo's SDKs refuse it (docs/facts/amberflo.md §3); it would cost the whole customer."""
    put = record({"traits": {"total": 1}}, traits={"total": value, "vip": True})
    assert put["traits"] == {"vip": True}


def test_names_of_traits_are_left_as_they_are() -> None:
    traits = record({"traits": {"a/b|c": "x/y"}}, traits={"d/e": "x/y"})["traits"]
    assert traits == {"a/b|c": "x/y", "d/e": "x_y"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (False, "false"),
        (5, "5"),
        (450.0, "450.0"),
        ("a/b", "a_b"),
        ("true", "true"),
        (["a/b", 1, True], '["a_b",1,true]'),
    ],
)
def test_as_strings_every_value_of_ours_is_text(value: Any, text: str) -> None:
    """docs/design.md §3.5: amberflo.trait_values = "string"."""
    assert record(traits={"total": value}, as_strings=True)["traits"] == {"total": text}


def test_as_strings_leaves_the_traits_of_others() -> None:
    put = record({"traits": {"seats": 5, "vip": True}}, traits={"vip": True}, as_strings=True)
    assert put["traits"] == {"seats": 5, "vip": "true"}


def test_a_protected_trait_is_never_written_nor_removed() -> None:
    """Also where somebody calls it ours: `amberflo.protected`."""
    theirs = {"stripeId": "cus_1", "awsm.customerIdentifier": "x", "awsm": "y"}
    owned = [*OWNED, "stripeId", "awsm.customerIdentifier", "awsm"]
    protected = ("stripeId", "stripe_id", "paymentProviderName", "awsm.*")
    wanted = {"vip": True, "stripeId": "mine", "paymentProviderName": "mine"}
    put = record({"traits": theirs}, traits=wanted, owned=owned, protected=protected)
    assert put["traits"] == {
        "stripeId": "cus_1",
        "awsm.customerIdentifier": "x",
        "vip": True,
    }


def test_what_was_read_is_not_changed() -> None:
    current, traits = copy.deepcopy(STRIPE), {"total": ["a/b"]}
    record(current, traits=traits, name="Eva")
    assert current == STRIPE
    assert traits == {"total": ["a/b"]}


VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.text(max_size=3), max_size=2),
)
NAMES = st.sampled_from(["vip", "old_one", "total", "stripeId", "seats"])
TRAITS = st.dictionaries(NAMES, VALUES)
FIELDS = st.dictionaries(
    st.sampled_from(["customerId", "customerName", "customerEmail", "id", "enabled", "updateTime"]),
    st.none() | st.text(max_size=3) | st.booleans(),
)
OURS = st.dictionaries(st.sampled_from(OWNED), VALUES)
TEXTS = st.none() | st.sampled_from(["", "Ada", "a@example.com"])


@given(FIELDS, TRAITS, OURS, TEXTS, TEXTS, st.booleans())
def test_a_record_read_back_is_written_the_same(
    fields: dict[str, Any],
    traits: dict[str, Any],
    ours: dict[str, Any],
    name: str | None,
    email: str | None,
    as_strings: bool,
) -> None:
    """Delivery may repeat (docs/design.md §3.6): the second PUT is the first one."""
    wanted: dict[str, Any] = {
        "traits": ours,
        "name": name,
        "email": email,
        "as_strings": as_strings,
    }
    first = record(fields | {"traits": traits}, **wanted)
    assert record(first, **wanted) == first
    ours = {
        key: value for key, value in ours.items() if not isinstance(value, str) or value.strip()
    }
    assert first["traits"].keys() == (traits.keys() - set(OWNED)) | ours.keys()
    for key in traits.keys() - set(OWNED):
        assert first["traits"][key] == traits[key]
    assert first["customerId"] == "u1"
    assert first["customerName"].strip()
    assert first.get("customerEmail", "some").strip()
    assert not SERVER_OWNED & first.keys()
    for key in ours:
        value = first["traits"][key]
        assert not as_strings or isinstance(value, str)
        assert not isinstance(value, str) or not {"/", "|"} & set(value)


# What is given back


class Row(NamedTuple):
    """A customer of the state that gives something back."""

    given_back: str | None
    customer_id: str = "u1"
    traits: str = '{"vip":true}'
    name: str | None = None
    email: str | None = None
    identify_traits: str | None = None


def giving(called: dict[str, Any] | None = None, **given_back: Any) -> Row:
    said = None if called is None else orjson.dumps(called).decode()
    return Row(orjson.dumps(given_back).decode(), identify_traits=said)


def test_what_is_given_back_is_as_others_had_it() -> None:
    """OwnedTraits goes, also where our writing of a value is another one than theirs."""
    current = {"customerId": "u1", "traits": {"plan": True, "old": True, "stripeId": "cus_1"}}
    put = to_put(current, giving(plan="gold/eu", old=None), {"vip"})
    assert put["traits"] == {"plan": "gold/eu", "stripeId": "cus_1", "vip": True}
    # Only once: the next record leaves it to others.
    edited = {**put, "traits": {**put["traits"], "plan": "silver"}}
    assert to_put(edited, Row(None), {"vip"})["traits"]["plan"] == "silver"


def test_what_identify_calls_say_of_a_name_counts_when_it_is_given_back() -> None:
    current = {"customerId": "u1", "traits": {"plan": True}}
    put = to_put(current, giving({"plan": ["silver", 5]}, plan="gold"), {"vip"})
    assert put["traits"]["plan"] == "silver"
    put = to_put(current, giving({"plan": [None, 5, [True]]}, plan="gold"), {"vip"})
    assert "plan" not in put["traits"]


@pytest.mark.parametrize(
    ("written", "value", "rest"),
    [
        (["pro"], "pro", {}),
        (["free", "pro"], "free", {}),  # whichever of ours got there
        ([5], "5", {}),  # as Amberflo may store it
        (["a/b"], "a_b", {}),
        (["pro"], "gold", {"plan": "gold"}),  # somebody else's since
        ([], "pro", {"plan": "pro"}),
        (True, "anything", {}),  # the customer is forgotten
    ],
)
def test_a_null_takes_away_only_what_calls_wrote(written: Any, value: Any, rest: Any) -> None:
    current = {"customerId": "u1", "traits": {"plan": value}}
    row = giving({"plan": [None, 5, written]})._replace(given_back=None)
    assert to_put(current, row, {"vip"})["traits"] == {"vip": True} | rest
    drift = [difference.trait for difference in differences(current, row, {"vip"})]
    assert ("plan" in drift) == (rest == {})


def test_a_name_that_is_engages_is_no_clients() -> None:
    """Also of a customer that is not in the audience."""
    row = giving({"vip": [True, 5], "plan": ["pro", 5]})._replace(traits="{}", given_back=None)
    current = {"customerId": "u1", "traits": {"vip": True}}
    assert to_put(current, row, {"vip"})["traits"] == {"plan": "pro"}
    assert [difference.trait for difference in differences(current, row, {"vip"})] == [
        *("customerName", "plan", "vip")
    ]
    assert to_put(current, row, set())["traits"] == {"plan": "pro", "vip": True}


def test_what_is_given_back_is_others_to_change() -> None:
    current = {"customerId": "u1", "customerName": "u1", "traits": {"vip": True, "plan": "x"}}
    owned = {"vip", "plan"}  # as somebody knew them before it was given back
    assert [difference.trait for difference in differences(current, Row(None), owned)] == ["plan"]
    for given_back in ("gold", None):
        assert differences(current, giving(plan=given_back), owned) == []
    called = {"plan": ["silver", 5]}
    assert [
        difference.trait for difference in differences(current, giving(called, plan=1), owned)
    ] == ["plan"]


def test_protected_traits_are_not_given_back_either() -> None:
    current = {"customerId": "u1", "traits": {"stripeId": "cus_1"}}
    for given_back in ("cus_9", None):
        put = to_put(current, giving(stripeId=given_back), {"vip"}, protected=("stripeId",))
        assert put["traits"] == {"stripeId": "cus_1", "vip": True}


def test_what_is_remembered_is_bounded_by_bytes() -> None:
    """Customers may have any number of traits, each its own values: these would be over 30 MiB."""
    tracemalloc.start()
    try:
        for number in range(100):
            traits = {f"trait_{place}": f"{number} {place}" + 400 * "x" for place in range(400)}
            ours_at_amberflo(Row(None, traits=orjson.dumps(traits).decode()), {"trait_1"})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


@pytest.mark.parametrize(("stored", "wanted"), [("1000", "1e3"), ("[1]", "[1.0]"), ("5", "5.0")])
def test_a_name_is_no_number(stored: str, wanted: str) -> None:
    """As a trait these are equal, the way Amberflo may store values."""
    record = {"customerName": wanted, "customerEmail": None, "traits": {"one": wanted}}
    same = {"customerName": wanted, "traits": {"one": stored}}
    assert holds_already(same, record)
    assert not holds_already({**same, "customerName": stored}, record)
