"""What is left of a customer, and where."""

from __future__ import annotations

from typing import Any

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation, expected_records

Json = dict[str, Any]


def traces(installation: Installation, *needles: str) -> dict[str, list[str]]:
    """The files of the state that hold one of these texts, raw."""
    by_file: dict[str, list[str]] = {}
    for file in installation.folder.glob("syncer*"):
        content = file.read_bytes()
        hits = [needle for needle in needles if needle.encode() in content]
        if hits:
            by_file[file.name] = hits
    return by_file


def personal(
    installation: Installation, engage: EngageSandbox, but: str | None = None
) -> tuple[str, Json]:
    """A customer whose id, name and email nobody else has, and what Amberflo holds of it.

    Customers of one profile share these. `but` is one whom it must not be. Nor is it `u000000`: a
    byte of a time and the zeros of the first seal read so, too.
    """
    wanted = expected_records(engage)
    values = [str(held[field]) for held in wanted.values() for field in held if field != "traits"]
    for customer_id, record in wanted.items():
        own = record["customerName"], record["customerEmail"]
        members = [value for value in record["traits"].values() if value is True]
        if (
            customer_id.startswith("u")
            and customer_id not in (but, "u000000")
            and members
            and all(values.count(value) == 1 for value in own)
        ):
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
