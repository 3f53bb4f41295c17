"""A sweep is whole or not there, goes on where it was, and takes nobody for gone."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from state import snapshot
from state.db.database import Database
from syncer.engage import sweep
from syncer.engage.profile_api import STALE
from syncer.engage.source import Everything, OnlyCustomers
from syncer.engage.sweep import AT_A_TIME
from syncer.engage.sweep_file import Batch, SweepFile
from syncer.errors import SourceError, Stopped, SyncerError
from syncer.sandbox.faults import Faults
from tests.support import processes
from tests.support.space import runs_on

from .helpers import ProfileApiSpace

SWEEPS = """
import sys
from pathlib import Path
from syncer.engage.profile_api import ProfileApi
from syncer.engage.source_settings import SourceContext
folder, url, rate, number = sys.argv[1:]
ids = [f"u{each}" for each in range(int(number))]
context = SourceContext(customer_ids={"test": lambda: ids})
ProfileApi("token", "a space", Path(folder), url, rate=float(rate), context=context).sweep()
"""


def fill(space: ProfileApiSpace, number: int) -> list[str]:
    for each in range(number):
        space.put(f"u{each}", vip=True)
    return list(space.ids)


def reads(space: ProfileApiSpace) -> dict[str, int]:
    counted: dict[str, int] = space.sandbox.stats()["reads"]
    return counted


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def kept(folder: Path) -> int:
    """How many profiles a sweep that goes on has on disk."""
    path = folder / "syncer-profile-api.part.db"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        counted = connection.execute("SELECT COUNT(*) FROM ids WHERE outcome = 'read'").fetchone()
    return int(counted[0])


def test_a_sweep_that_is_killed_goes_on_where_it_was(space: ProfileApiSpace) -> None:
    """Killed at any moment, it has read nobody twice but those of the last second or so."""
    fill(space, 200)
    for killed in range(3):
        sweeping = processes.start("-c", SWEEPS, space.folder, space.url, 80, 200)
        wanted = 40 * (killed + 1)
        processes.wait_until(lambda wanted=wanted: len(reads(space)) >= wanted, 60)
        if killed == 1:
            processes.wait_until(lambda: kept(space.folder) > 0, 60)
        sweeping.kill()
        sweeping.wait()
        assert "syncer-profile-api.db" not in files(space.folder)  # half a sweep is none
    done = len(reads(space))
    assert done < 200
    assert len(space.pulled()) == 200
    assert "a sweep was cut off after" in "".join(space.said.lines)
    again = sum(number > 1 for number in reads(space).values())
    assert set(reads(space).values()) <= {1, 2, 3, 4}
    assert again < done
    assert files(space.folder) == {"syncer-profile-api.db", "syncer-profile-api.lock"}
    for path in space.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_sweep_that_is_stopped_goes_on_with_the_ids_that_are_new(space: ProfileApiSpace) -> None:
    fill(space, 100)
    stopped = {"stop": lambda: len(reads(space)) >= 20}
    with pytest.raises(Stopped, match="what was read is kept"):
        space.pulled(context=stopped)
    read = set(reads(space))
    space.sandbox.reset_stats()
    space.put("new", vip=True)
    assert len(space.pulled()) == 101
    assert "user_id:new" in reads(space)
    assert len(reads(space)) <= 101 - len(read) + AT_A_TIME  # those in work are asked again


def test_a_sweep_whose_token_is_revoked_goes_on_with_the_new_one(space: ProfileApiSpace) -> None:
    fill(space, 100)
    answers = iter(range(150))

    def answered() -> None:
        if next(answers) == 20:
            space.sandbox.accept("new")

    refused = (
        r"^the Profile API refuses the token \(status 401\): set engage\.profile_api\.token to"
    )
    for token in ("token", "wrong"):
        with pytest.raises(SourceError, match=refused):
            space.pulled(token=token, context={"answered": answered})
    assert "syncer-profile-api.db" not in files(space.folder)  # half a sweep is none
    assert kept(space.folder) >= 20
    assert len(space.pulled(token="new")) == 100
    assert "a sweep was cut off after" in "".join(space.said.lines)
    assert set(reads(space).values()) == {1}
    assert space.said.lines[-1] == "100 ids were asked for: Segment knows 100 of them, and 0 not"


def test_a_sweep_that_finds_the_disk_full_goes_on_when_there_is_room(
    space: ProfileApiSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is full: while ids are added, profiles are stored, or indexes are made."""
    for each in range(30):
        space.put(f"u{each}", vip=True, total="x" * 2000)
    begin, room = SweepFile._begin, 8
    monkeypatch.setattr(sweep, "STORE", 0.01)

    def bounded(self: SweepFile, place: str) -> str | None:
        place_before = begin(self, place)
        self._connection.execute(f"PRAGMA max_page_count = {room}")
        return place_before

    monkeypatch.setattr(SweepFile, "_begin", bounded)
    full = rf"^what was read of Engage cannot be kept in {space.folder}: database or disk is full;"
    refusals: list[str] = []
    while "syncer-profile-api.db" not in files(space.folder):
        try:
            assert len(space.pulled()) == 30
        except SyncerError as error:
            refusals.append(str(error))
            room += 8
    assert len(refusals) > 2
    assert all(re.match(full, line) for line in refusals)
    assert files(space.folder) == {"syncer-profile-api.db", "syncer-profile-api.lock"}


def test_what_waits_for_its_thread_when_the_sweep_ends_is_stored(
    space: ProfileApiSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine a thread gets its turn late."""
    fill(space, 3)
    space.sandbox.broken = {"user_id:u2": 503}  # until a thread has something to store
    to_thread, late = asyncio.to_thread, list[int]()

    async def store(function: Any, batch: Batch, now: int) -> None:
        if batch.outcomes:
            late.append(len(batch.outcomes))
            space.sandbox.broken = {}
            await asyncio.sleep(0.5)
        await to_thread(function, batch, now)

    monkeypatch.setattr(sweep, "STORE", 0.02)
    monkeypatch.setattr(asyncio, "to_thread", store)
    assert len(space.pulled()) == 3
    assert late


def test_an_old_or_another_sweep_is_not_gone_on_with(space: ProfileApiSpace) -> None:
    """What was read hours ago, or of another space, is no part of this one."""
    fill(space, 100)
    now = 1_800_000_000_000

    def cut_off(**settings: Any) -> None:
        space.sandbox.reset_stats()
        with pytest.raises(Stopped):
            space.pulled(context={"stop": lambda: len(reads(space)) >= 10}, **settings)
        assert "syncer-profile-api.part.db" in files(space.folder)
        space.said.lines.clear()

    for late, goes_on in ((STALE - 1, True), (STALE, False)):
        cut_off(clock=lambda: now)
        with space.source(clock=lambda late=late: now + late).pull(Everything()) as pull:
            began = "2027-01-15T08:00:00.000Z" if goes_on else "2027-01-15T14:00:00.000Z"
            assert pull.watermark() == began
        assert ("a sweep was cut off" in "".join(space.said.lines)) == goes_on
    cut_off()
    (space.folder / "syncer-profile-api.part.db").write_bytes(b"no database" * 1000)
    assert len(space.pulled()) == 100
    assert "cut off" not in "".join(space.said.lines)
    cut_off()
    source = space.source(context={"customer_id": "email"})
    with pytest.raises(SourceError, match="knows none"):
        source.sweep()
    assert "cut off" not in "".join(space.said.lines)


def test_one_process_sweeps_at_a_time_and_another_takes_its_sweep(space: ProfileApiSpace) -> None:
    fill(space, 60)
    sweeping = processes.start("-c", SWEEPS, space.folder, space.url, 60, 60)
    processes.wait_until(lambda: len(reads(space)) >= 5, 60)
    assert len(space.pulled()) == 60
    assert sweeping.wait() == 0
    assert "another process reads the profiles: waiting for it" in space.said.lines
    assert set(reads(space).values()) == {1}


def test_a_run_opens_several_pulls_and_sweeps_once(space: ProfileApiSpace) -> None:
    fill(space, 5)
    source = space.source()
    for _ in range(2):
        with source.pull(Everything()) as pull:
            assert len(list(pull.customers(["vip"]))) == 5
    assert set(reads(space).values()) == {1}


def test_who_cannot_be_read_is_left_as_it_is_and_counted(
    space: ProfileApiSpace, tmp_path: Path
) -> None:
    """A sweep with a hole must not look like exits, nor like deletions."""
    fill(space, 12)
    space.put("u-gone", vip=True)
    space.put("u-left", vip=True)
    with closing(Database.open(f"sqlite:///{tmp_path / 'state.db'}")) as state:
        first = runs_on(state, space.source(rate=100_000)).sync()
        assert (first.state, first.delivery.delivered) == ("done", 14)
        space.sandbox.broken = {"user_id:u0": 400, "user_id:u1": 500}
        del space.sandbox.profiles["user_id:u-gone"]  # type: ignore[attr-defined]
        space.put("u-left", known=False, vip=False)
        second = runs_on(state, space.source()).sync(full=True)
        assert "2 customers could not be read from the source and stay as they are" in (
            second.notices
        )
        assert second.delivery.delivered == 2
        assert _traits(state) == {
            **dict.fromkeys(space.ids, True),
            "u-gone": False,
            "u-left": False,
        }
        space.sandbox.broken = {}
        space.sandbox.profiles["user_id:u0"]["vip"] = (False, "")  # type: ignore[index]
        third = runs_on(state, space.source()).sync()
        assert third.delivery.delivered == 1
        assert _traits(state)["u0"] is False


def _traits(state: Database) -> dict[str, Any]:
    with state.read() as connection:
        return {row[0]: orjson.loads(row[1])["vip"] for row in snapshot.customers(connection)}


def test_who_became_known_while_the_sweep_went_on_is_left_as_it_is(
    space: ProfileApiSpace,
) -> None:
    fill(space, 3)
    with space.source().pull(Everything()) as pull:
        list(pull.customers(["vip"]))
        assert pull.absence().unread(["u0", "a-new-one"]) == {"a-new-one"}


def test_some_customers_are_asked_for_as_they_are_now(space: ProfileApiSpace) -> None:
    fill(space, 5)
    space.put("other", vip=True, tier="gold")
    assert len(space.pulled()) == 6
    space.put("u1", known=False, vip=False)
    space.sandbox.reset_stats()
    source = space.source()
    with source.pull(OnlyCustomers(("u1", "nobody"))) as pull:
        (row,) = pull.customers(["vip"])
        assert (row.customer_id, row.values) == ("u1", '["false"]')
        assert pull.identified(["u1", "nobody"]) == {"u1"}
        assert {key.key for key in pull.observed()} == {"vip", "tier"}  # of the whole space
        assert pull.watermark() is None
    assert set(reads(space)) == {"user_id:u1", "user_id:nobody"}
    space.sandbox.faults = Faults.parse("500=1")
    with pytest.raises(SourceError, match="no usable answer"):
        space.pulled(OnlyCustomers(("u1",)), patience=0.2)


def test_signs_of_life_come_while_the_sweep_goes_on(space: ProfileApiSpace) -> None:
    """A run tells that its source does not answer where none comes for a while."""
    fill(space, 20)
    signs: list[str] = []
    space.pulled(context={"answered": lambda: signs.append(threading.current_thread().name)})
    assert len(signs) == 20


def test_no_ids_at_all_are_an_empty_space(space: ProfileApiSpace) -> None:
    assert space.pulled() == {}
    assert space.pulled(OnlyCustomers(())) == {}
