"""What is left of a customer, and where."""

from __future__ import annotations

from typing import Any

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation, expected_records

Json = dict[str, Any]


def traces(installation: Installation, *needles: str) -> dict[str, list[str]]:
    """The files of the state that hold one of these texts, raw."""
    found: dict[str, list[str]] = {}
    for file in installation.folder.glob("syncer*"):
        content = file.read_bytes()
        there = [needle for needle in needles if needle.encode() in content]
        if there:
            found[file.name] = there
    return found


def personal(installation: Installation, engage: EngageSandbox) -> tuple[str, Json]:
    """A customer whose id, name and email nobody else has, and what Amberflo holds of it."""
    wanted = expected_records(engage)
    values = [str(one[field]) for one in wanted.values() for field in one if field != "traits"]
    for customer_id, record in wanted.items():
        own = record["customerName"], record["customerEmail"]
        members = [value for value in record["traits"].values() if value is True]
        if customer_id.startswith("u") and members and all(values.count(one) == 1 for one in own):
            return customer_id, record
    raise AssertionError("there is none")


def check_sums(installation: Installation, run: int) -> None:
    for row in installation.json("runs", "show", str(run))["traits"]:
        parts = ("entered", "exited", "changed", "unchanged", "skipped")
        assert row["pulled"] == sum(row[part] for part in parts), row


def skipped(installation: Installation, run: int) -> int:
    """Values that a run skipped because the customer is forgotten."""
    rows = installation.json("runs", "show", str(run))["traits"]
    return sum(row["reasons"].get("forgotten", 0) for row in rows)
