"""What the Public API lists, and when exits count (docs/facts/segment.md §1.2)."""

from __future__ import annotations

import pytest

from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT, Computation, Computations


def audience(status: str | None, enabled: bool = True) -> Computation:
    return Computation("vip", "Vip", AUDIENCE, status, enabled)


@pytest.mark.parametrize(
    "status", ["Backfilling", "Computing", "Locked", "Failed", "Disabled", "Error", "Preparing"]
)
@pytest.mark.parametrize("enabled", [True, False])
def test_exits_wait_while_it_is_not_computed(status: str, enabled: bool) -> None:
    reason = audience(status, enabled).exits_wait
    assert reason is not None
    assert reason.startswith(f"its status is {status}, ")


@pytest.mark.parametrize("status", ["Live", "Not Computing", "Awaiting Destinations", None, "New"])
def test_exits_count_while_it_is_live_and_enabled(status: str | None) -> None:
    assert audience(status).exits_wait is None
    assert audience(status, enabled=False).exits_wait == (
        "it is not enabled, so it is not computed"
    )


def test_a_listing_knows_the_kinds_and_what_waits() -> None:
    listing = Computations.of(
        [audience("Locked"), Computation("spent", "Spent", COMPUTED_TRAIT, "Live")]
    )
    assert listing.kinds == {"vip": AUDIENCE, "spent": COMPUTED_TRAIT}
    assert listing.exits_wait("vip") == audience("Locked").exits_wait
    assert listing.exits_wait("spent") is None
    assert listing.exits_wait("no such key") is None


def test_where_it_could_not_be_read_every_exit_waits() -> None:
    listing = Computations({"vip": AUDIENCE}, problem="it refuses the token")
    for key in ("vip", "no such key"):
        assert listing.exits_wait(key) == "the Public API could not be read"
