"""Trait names (docs/design.md §3.2): Segment's own warehouse rule, and keys that need no rule."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncer.engage.trait_names import snake_case, trait_name

#: Keys as people write them: words, capitals, digits and what may stand between.
KEYS = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="abzABZ059_ -.$é٢", max_size=20),
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("samPLE text", "sam_ple_text"),
        ("sample___text", "sample_text"),
        ("sample 2 Text", "sample_2_text"),
        ("___$$Base64Encode", "base64_encode"),
        ("FOO:BAR$BAZ", "foo_bar_baz"),
        ("CStringRef", "cstring_ref"),
        ("THE5r", "the5r"),
        ("_5TEst", "5test"),
        ("f_pX9", "f_p_x9"),
        ("2FA Enabled", "2fa_enabled"),
        ("•¶§ƒ˚foo˙∆˚¬", "foo"),
        ("j_o_first_purchase__opened_email_x", "j_o_first_purchase_opened_email_x"),
    ],
)
def test_the_warehouse_rule_of_segment(text: str, name: str) -> None:
    """Vectors of go-snakecase: docs/facts/segment.md §3.1."""
    assert snake_case(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", ""),
        ("•¶§", ""),
        ("____", ""),
        ("  padded  ", "padded"),
        ("Café Crème", "caf_cr_me"),
        ("٢٣ stars", "stars"),
        ("one\ttwo\nthree", "one_two_three"),
        ("plan2Pro", "plan2_pro"),
    ],
)
def test_what_is_no_ascii_letter_or_digit_separates(text: str, name: str) -> None:
    assert snake_case(text) == name


def test_the_example_of_the_seed() -> None:
    """docs/design.md §3.2: the audience "Order Completed Last 30days"."""
    assert trait_name("Order Completed Last 30days") == "order_completed_last_30days"


@pytest.mark.parametrize(
    "key",
    ["order_completed_last_30days", "j_o_jons__step_1_ns3i7", "_private", "trailing_", "5", "___"],
)
def test_a_ready_key_is_kept_as_it_is(key: str) -> None:
    """docs/design.md §3.2: keys of `[a-z0-9_]+` are their own name, a journey's `__` too."""
    assert trait_name(key) == key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("j_o_Jons__step", "j_o_jons_step"),
        ("a__b\n", "a_b"),
        ("a__b é", "a_b"),
        ("a__b٢", "a_b"),
        ("Invited User?", "invited_user"),
        ("¿?", ""),
        ("", ""),
    ],
)
def test_a_key_with_one_other_character_is_snake_cased(key: str, name: str) -> None:
    assert trait_name(key) == name


@given(KEYS)
@example("A_ _b")
def test_snake_case_gives_words_of_ascii_joined_by_single_underscores(text: str) -> None:
    assert re.fullmatch(r"([a-z0-9]+(_[a-z0-9]+)*)?", snake_case(text))


@given(KEYS)
def test_snake_case_keeps_each_ascii_letter_and_digit(text: str) -> None:
    kept = "".join(char for char in text if char.isascii() and char.isalnum())
    assert snake_case(text).replace("_", "") == kept.lower()


@given(KEYS)
def test_names_stay_the_same_when_named_again(text: str) -> None:
    assert snake_case(snake_case(text)) == snake_case(text)
    assert trait_name(trait_name(text)) == trait_name(text)


@given(KEYS)
def test_a_trait_name_is_of_small_letters_digits_and_underscores(text: str) -> None:
    assert re.fullmatch(r"[a-z0-9_]*", trait_name(text))
    assert trait_name(text) in (text, snake_case(text))
