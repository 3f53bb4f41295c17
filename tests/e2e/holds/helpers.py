"""A hold, and what runs and Amberflo say of it."""

from __future__ import annotations

from typing import Any

from tests.support.installation import Installation
from tests.support.warehouse import Warehouse

#: Of so many members the guard's bounds for small audiences let nine leave, ten and more of three
#: in ten not.
MANY = 40
DOWN = "500=1"
#: A run that went well, whether it came by what is held or not.
GOOD = (0, 3)

#: The kinds of run that look at something again.
EVERY_KIND = [
    ("sync",),
    ("sync", "--full"),
    ("resync", "--yes"),
    ("resync", "--audience", "vip", "--yes"),
    ("resync", "--customer", "u00", "--yes"),
]


def leave(warehouse: Warehouse, who: list[str], key: str = "vip", *, ago: float = 1.0) -> None:
    for customer_id in who:
        warehouse.say(customer_id, key, "false", ago=ago)


def held(installation: Installation) -> list[str]:
    return [entry["key"] for entry in installation.json("status")["held"]]


def holds_of(installation: Installation, run: int) -> list[dict[str, Any]]:
    holds: list[dict[str, Any]] = installation.json("runs", "show", str(run))["holds"]
    return holds


def newest_run(installation: Installation) -> int:
    return int(installation.json("runs", "--limit", "1")[0]["run"])


def hold(installation: Installation, warehouse: Warehouse, who: list[str]) -> int:
    """These leave, all at once; gives the run that holds it."""
    leave(warehouse, who)
    installation.run("sync", exit_code=3)
    assert held(installation) == ["vip"]
    return newest_run(installation)
