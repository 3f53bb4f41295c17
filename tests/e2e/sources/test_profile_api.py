"""A set-up without a warehouse: who is asked for, and what calls say between two sweeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from syncer.sandbox.profile_api import ProfileApiSandbox, running
from tests.support.desk import take
from tests.support.events import ago, engage_call, track
from tests.support.installation import Installation

AT = "2026-03-04T10:00:00.000Z"


@pytest.fixture
def space(installation: Installation) -> Iterator[ProfileApiSandbox]:
    """Ten profiles in the audience vip, of whom nobody told the installation."""
    sandbox = ProfileApiSandbox(
        "token",
        "space",
        limit=100_000,
        profiles={f"user_id:u{n}": {"vip": (True, AT), "spent": (n, AT)} for n in range(10)},
    )
    with running(sandbox) as url:
        installation.configure(
            engage='source = "profile_api"\ncomputed_traits = ["spent"]',
            more='[passthrough]\nwebhook_secret = "shared-webhook-secret-77"\n'
            f'[engage.profile_api]\ntoken = "token"\nspace_id = "space"\nurl = "{url}"\n'
            "rate = 100000\n",
        )
        yield sandbox


def at_amberflo(installation: Installation, customer_id: str) -> None:
    installation.amberflo.customers[customer_id] = {
        "customerId": customer_id,
        "customerName": customer_id,
        "traits": {"plan": "of others"},
    }


def asked(space: ProfileApiSandbox) -> set[str]:
    reads = {external_id.removeprefix("user_id:") for external_id in space.stats()["reads"]}
    space.reset_stats()
    return reads


def test_the_customers_of_amberflo_and_of_calls_are_asked_for(
    installation: Installation, space: ProfileApiSandbox
) -> None:
    for customer_id in ("U1", "u2", "nobody"):
        at_amberflo(installation, customer_id)
    installation.run("sync")
    assert asked(space) == {"u1", "u2", "nobody"}
    assert installation.values("vip") == {"U1": True, "u2": True}
    assert installation.values("plan") == dict.fromkeys(("U1", "nobody", "u2"), "of others")

    # A call that waits for its trait, one that makes a customer, and a record that waits.
    take(
        installation,
        engage_call("u3", "newly", True, ago(1)),
        engage_call("u4", "vip", True, ago(1)),
        track(userId="u5"),
    )
    installation.run("sync")
    assert asked(space) == {"u1", "u2", "u3", "u4", "u5", "nobody"}
    assert installation.members("vip") == {"U1", "u2", "u3", "u4", "u5"}
    assert installation.values("spent") == {"U1": 1, "u2": 2, "u3": 3, "u4": 4, "u5": 5}

    installation.run("forget", "u4", "--yes")
    installation.run("sync")
    assert "u4" not in asked(space)  # though Amberflo still lists the id


def test_a_call_since_the_sweep_began_stands_until_the_next(
    installation: Installation, space: ProfileApiSandbox
) -> None:
    for number in range(10):
        at_amberflo(installation, f"u{number}")
    installation.run("sync")
    take(installation, engage_call("u1", "vip", False, ago(0)))
    del space.profiles["user_id:u2"]  # type: ignore[attr-defined]
    space.broken = {"user_id:u3": 400}
    report = installation.json("sync")
    assert installation.values("vip") == {
        **{f"u{number}": True for number in range(10)},
        "u1": False,  # Segment's API may not have it yet
        "u2": False,  # deleted
    }
    assert report["deleted"] == 1
    assert (
        "1 customers could not be read from the source and stay as they are" in (report["notices"])
    )
    installation.run("verify")
