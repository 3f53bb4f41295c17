"""A state that is lost or copied, and customers that Amberflo has already."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.installation import Installation


def lose_state(installation: Installation) -> None:
    for path in installation.folder.glob("syncer.db*"):
        path.unlink()


def copy_state(installation: Installation, name: str) -> Path:
    """A copy as a backup makes it."""
    target = installation.folder / name
    with (
        closing(sqlite3.connect(installation.folder / "syncer.db")) as state,
        closing(sqlite3.connect(target)) as copy,
    ):
        state.backup(copy)
    return target


def restore(installation: Installation, copy: Path) -> None:
    lose_state(installation)
    copy.rename(installation.folder / "syncer.db")


def seed(installation: Installation, customer_id: str, **traits: Any) -> None:
    """Somebody else wrote this customer."""
    installation.amberflo.customers[customer_id] = {
        "customerId": customer_id,
        "id": customer_id,
        "customerName": "Ada",
        "traits": traits,
    }
