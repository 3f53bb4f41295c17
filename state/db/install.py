"""New files of a SQLite state in place of the old ones: all of them, or none that is used.

Two files cannot be renamed at once. So a plan beside the state says what goes where, and nothing
opens the state while there is a plan (`check_installed`). The new files are complete and on disk
before it is written, so whoever finds one that was cut off carries it out (`carry_out`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import orjson

from state.db.files import open_private
from state.errors import StateError


class Plan(NamedTuple):
    """What goes where: first old files to the names that they keep, then new files into place."""

    keep: list[tuple[str, str]]
    put: list[tuple[str, str]]


def plan_file(state: Path) -> Path:
    """Return where the plan of a state is, whose SQLite file is at `state`."""
    return state.with_name(f"{state.name}.install")


def check_installed(state: Path) -> None:
    """Raise where files of this state are being exchanged, or an exchange was cut off."""
    if plan_file(state).exists():
        raise StateError(
            f"the state database {state}: its files are being exchanged, or that was cut off: "
            "`syncer state restore --finish` finishes it"
        )


def write_plan(state: Path, plan: Plan) -> None:
    """Write the plan; from here on nothing opens the state."""
    file = plan_file(state)
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    with open_private(part) as out:
        out.write(orjson.dumps(plan._asdict()))
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, file)
    sync_folder(state.parent)


def drop_plan(state: Path) -> None:
    """Give a plan up of which nothing was carried out."""
    plan_file(state).unlink(missing_ok=True)
    sync_folder(state.parent)


def carry_out(state: Path) -> Plan:
    """Do what the plan says, or what is left of it, and remove it.

    A file that has its new name already is not moved again: what stands under its old name since
    is new.
    """
    plan = Plan(**orjson.loads(plan_file(state).read_bytes()))
    for old, kept in plan.keep:
        if os.path.exists(old) and not os.path.exists(kept):
            os.rename(old, kept)
    for new, place in plan.put:
        if os.path.exists(new):
            os.replace(new, place)
    sync_folder(state.parent)
    drop_plan(state)
    return plan


def sync_file(file: Path) -> None:
    """Wait until a file that nobody has open is on disk."""
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(files: Iterable[Path]) -> None:
    """Remove files that may be missing."""
    for file in files:
        file.unlink(missing_ok=True)
