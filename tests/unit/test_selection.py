"""Which keys the config's globs make ours, for pulls and for calls."""

from __future__ import annotations

from itertools import permutations

import pytest

from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Kind
from syncer.engage.selection import KeySelection, matches, named


@pytest.mark.parametrize(
    ("key", "audiences", "computed_traits", "kind"),
    [
        ("vip", ["*"], [], AUDIENCE),
        ("vip", ["vip"], [], AUDIENCE),
        ("vip", ["v?p", "x"], [], AUDIENCE),
        ("Vip", ["vip"], [], None),
        ("vip", [], [], None),
        ("total", ["*"], ["tot*"], COMPUTED_TRAIT),
        ("total", [], ["total"], COMPUTED_TRAIT),
        ("total", ["*"], ["tot*", "!total"], AUDIENCE),
        ("name", ["*"], ["name"], None),
        ("email", ["email"], ["*"], None),
        ("hidden_entry_7", ["*"], ["hidden*"], None),
    ],
)
def test_what_a_key_may_be(
    key: str, audiences: list[str], computed_traits: list[str], kind: Kind | None
) -> None:
    assert KeySelection(audiences, computed_traits).kind(key) == kind


def test_globs_that_exclude_do_so_wherever_they_stand() -> None:
    for patterns in permutations(["*", "internal_a", "!internal_*", "!beta"]):
        matched = [key for key in ("vip", "internal_a", "beta", "betas") if matches(key, patterns)]
        assert matched == ["vip", "betas"], patterns


def test_what_only_excludes_selects_nothing() -> None:
    assert not matches("vip", ["!beta"])


@pytest.mark.parametrize(
    ("key", "patterns", "exactly"),
    [
        ("plan", ["*", "plan"], True),
        ("plan", ["*"], False),
        ("plan", ["pla?"], False),
        ("plan", ["plan", "!pl*"], False),
        ("a*", ["a*"], False),  # that is a glob, whatever the key is
        ("!a", ["!a"], False),
    ],
)
def test_a_key_is_named_by_itself_alone(key: str, patterns: list[str], exactly: bool) -> None:
    assert named(key, patterns) is exactly
