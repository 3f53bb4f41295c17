"""What changes while `syncer verify` looks is no drift."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from state import erasure
from state.db.database import Database
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults
from tests.e2e.verify.helpers import Amberflo, all_good, deliver, found_by, make_due, rename
from tests.support.installation import Installation


def test_a_run_at_the_same_time_is_no_drift(
    installation: Installation, amberflo: Amberflo, synced: list[str], engage: EngageSandbox
) -> None:
    amberflo.faults = Faults.parse("slow=0.1,slow_seconds=0.02")
    pending, times = 0, 0
    for _ in range(2):
        changed = engage.evolve(fraction=0.2).changed
        assert len(changed) > 40
        installation.configure(rate=60, concurrency=4)
        amberflo.reset_stats()
        with installation.start("sync", "--full") as process:
            while process.poll() is None and not installation.puts():
                time.sleep(0.02)
            installation.configure(concurrency=32)
            while process.poll() is None:
                document = found_by(installation)
                assert document["extra"] == []
                pending += document["pending"]
                times += 1
            process.communicate()
        assert process.returncode == 0
        amberflo.paging_traits = amberflo.list_traits = False
    assert pending > 0
    assert times > 3
    all_good(installation, len(amberflo.customers))


def test_what_changed_between_two_looks_is_no_drift(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    """The page is older than the state; then so is the customer's own record, once."""
    once = set(synced[:20])

    def after_page(page: str) -> None:
        if page == "1":
            for id_ in once:
                deliver(installation, amberflo, id_)

    def after_read(customer_id: str) -> None:
        if customer_id in once:
            once.remove(customer_id)
            deliver(installation, amberflo, customer_id)

    amberflo.after_page, amberflo.after_read = after_page, after_read
    all_good(installation, len(synced))
    assert not once
    # What became due meanwhile, or changes all the time, is pending and never wrong.
    (renamed,) = rename(amberflo, synced, 1)
    amberflo.after_page = lambda page: None
    amberflo.after_read = lambda customer_id: make_due(installation, customer_id)
    document = found_by(installation)
    assert (document["pending"], document["equal"]) == (1, len(synced) - 1)
    deliver(installation, amberflo, renamed)
    rename(amberflo, synced, 1)
    amberflo.after_read = lambda customer_id: deliver(installation, amberflo, customer_id)
    document = found_by(installation)
    assert (document["pending"], document["equal"]) == (1, len(synced) - 1)


def test_a_forgotten_customer_is_one_more_at_amberflo(
    installation: Installation, amberflo: Amberflo, synced: list[str]
) -> None:
    gone = synced[3]
    installation.run("forget", gone, "--yes")
    all_good(installation, len(synced) - 1, extra=1)
    for more in ((), ("--customer", gone), ("--repair",)):
        assert found_by(installation, *more)["extra"] == [gone]
    del amberflo.customers[gone]
    all_good(installation, len(synced) - 1)
    done = installation.run("verify", "--customer", gone, exit_code=1)
    assert "was never sent, and is not at Amberflo" in done.stderr


@pytest.mark.parametrize("when", ["page", "read"])
def test_who_is_erased_between_two_looks_is_not_judged(
    installation: Installation, amberflo: Amberflo, synced: list[str], when: str
) -> None:
    (gone,) = rename(amberflo, synced, 1)
    pending = {gone}

    def forget(_: str) -> None:
        if pending:
            pending.clear()
            url = f"sqlite:///{installation.folder / 'syncer.db'}"
            with (
                closing(Database.open(url)) as database,
                database.write(alone=True) as connection,
            ):
                erasure.erase(connection, gone, time.time_ns() // 1_000_000)

    if when == "page":
        amberflo.after_page = forget
    else:
        amberflo.after_read = forget
    document = found_by(installation)
    assert not pending
    assert document["checked"] == document["equal"] == len(synced) - 1
    assert (document["missing"], document["drifted"]) == ([], [])


def test_pages_that_move_hide_nobody(
    installation: Installation,
    amberflo: Amberflo,
    synced: list[str],
) -> None:
    amberflo.most = 20
    traits = found_by(installation)["traits"]
    moved: list[str] = []

    def after_page(page: str) -> None:
        """Each page is one further, or one back, when the next one is asked for."""
        new = f"!{page}"
        if int(page) < 8:
            amberflo.customers[new] = {"customerId": new, "customerName": new}
            moved.append(new)
        elif moved:
            del amberflo.customers[moved.pop()]

    amberflo.after_page = after_page
    document = found_by(installation)
    assert document["equal"] == len(synced)
    assert document["traits"] == traits  # and count nobody twice
    requests = amberflo.stats()["requests"]
    assert requests["GET /customers"] >= 5  # those that fell between two pages
