"""A space of the Public API, its section of the config, and what runs say of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import Any

from state import snapshot
from state.db.database import Database
from state.snapshot import TraitRow
from syncer.sandbox.engage import EngageSandbox, Evolution
from syncer.sandbox.public_api import PublicApiSandbox
from tests.support.installation import Installation, expected_records

TOKEN, SPACE = "sgp_token", "9aQ1Lj62S4bomZKLF4DPqW"
Records = dict[str, dict[str, Any]]


def section(url: str, token: str = TOKEN, **more: Any) -> str:
    lines = [f'token = "{token}"', f'space_id = "{SPACE}"', f'url = "{url}"']
    lines += [f"{key} = {value}" for key, value in more.items()]
    return "\n".join(["[engage.public_api]", *lines, ""])


def set_status(space: PublicApiSandbox, status: str, *keys: str, **more: Any) -> None:
    """Give listed audiences (all, where none is named) another status."""
    space.listed = [
        replace(computation, status=status, **more)
        if computation.key in keys or (not keys and computation.kind == "audience")
        else computation
        for computation in space.listed
    ]


def without_exits(engage: EngageSandbox, before: Records, *keys: str) -> Records:
    """What Amberflo must hold while nobody leaves these audiences."""
    wanted = expected_records(engage)
    for customer_id, record in before.items():
        for key in keys:
            if record["traits"].get(key) is True:
                wanted[customer_id]["traits"][key] = True
    return wanted


def leaving(wanted: Records, settled: Records) -> set[str]:
    """Who differs between the two."""
    return {
        customer_id for customer_id in wanted if wanted[customer_id] != settled.get(customer_id)
    }


def check_sums(run: Any) -> None:
    for row in run["traits"]:
        parts = ("unchanged", "entered", "exited", "changed", "skipped")
        assert row["pulled"] == sum(row[part] for part in parts), row
        assert row["waiting"] <= row["held"] <= row["entered"] + row["exited"] + row["changed"]
    assert run["due"] == run["delivered"] + run["failed"] + run["held"]


def share_pulled(installation: Installation, run: Any) -> float:
    """How much of what the first run pulled this one did."""
    return float(run["pulled"] / installation.json("runs")[-1]["pulled"])


def by_key(run: Any) -> dict[str, Any]:
    return {row["key"]: row for row in run["traits"]}


def busiest(engage: EngageSandbox, evolution: Evolution) -> str:
    """An audience that some left and some entered."""
    return next(
        key
        for key in engage.audiences
        if evolution.exited[key] >= 2 and evolution.entered[key] >= 2
    )


def known_traits(installation: Installation) -> dict[str, TraitRow]:
    url = f"sqlite:///{installation.folder / 'syncer.db'}"
    with closing(Database.peek(url)) as database, database.read() as connection:
        return {row.key: row for row in snapshot.traits(connection)}


def custom_trait(installation: Installation, key: str) -> int:
    """Give 50 customers a boolean trait long ago; gives how many customers that is."""
    with closing(sqlite3.connect(installation.folder / "engage.db")) as source:
        ids = [
            row[0]
            for row in source.execute(
                "SELECT canonical_segment_id FROM user_identifiers WHERE type = 'user_id'"
                " GROUP BY 1 HAVING count(*) = 1 ORDER BY 1 LIMIT 50"
            )
        ]
        at = "2026-01-01 00:00:00.000000"
        source.executemany(
            "INSERT INTO user_traits VALUES (?, ?, 'true', 1, ?, ?, ?)",
            [(id_, key, at, at, at) for id_ in ids],
        )
        source.commit()
    return len(ids)
