"""Both parts are read as a crash at one moment would have left them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.engine import URL

from state.db import metadata
from state.db.database import Database
from state.errors import Busy
from state.transfer.moment import Moment, moment
from tests.contract.transfer.helpers import opened, url_of
from tests.support.processes import wait_until

#: What a call does, and what a failure does that is sent again: the part that is written first.
WAYS = {"call": ("state", "queue"), "resend": ("queue", "state")}


def put(connection: Connection, part: str, way: str, number: int) -> None:
    if part == "state":
        metadata.put(connection, way, str(number))
    else:
        connection.execute(
            text(
                "INSERT INTO counter VALUES (:way, '', :number) "
                "ON CONFLICT (name, reason) DO UPDATE SET value = :number"
            ),
            {"way": way, "number": number},
        )


def got(pair: Moment, part: str, way: str) -> int:
    if part == "state":
        return int(metadata.get(pair.state, way) or 0)
    statement = text("SELECT value FROM counter WHERE name = :way")
    return int(pair.queue.execute(statement, {"way": way}).scalar() or 0)


@contextmanager
def writing(url: URL | str) -> Iterator[None]:
    """Both ways go on all the time, each in a thread."""
    end = threading.Event()

    def write(way: str) -> None:
        with opened(url) as (state, queue):
            parts = {"state": state, "queue": queue}
            number = 0
            while not end.is_set():
                number += 1
                for part in WAYS[way]:
                    with parts[part].write() as connection:
                        put(connection, part, way, number)

    threads = [threading.Thread(target=write, args=[way]) for way in WAYS]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_nothing_is_between_the_two_parts(url: str) -> None:
    with opened(url) as (state, queue), writing(url):
        last = dict.fromkeys(WAYS, 0)

        def looked() -> bool:
            with moment(state, queue) as pair:
                for way, (first, second) in WAYS.items():
                    value, other = got(pair, first, way), got(pair, second, way)
                    assert other <= value <= other + 1, (way, value, other)
                    last[way] = value
            return min(last.values()) > 10

        for _ in range(60):
            looked()
        wait_until(looked, 60, what="that both ways went on")


def test_it_stays_at_that_moment(url: str) -> None:
    with opened(url) as (state, queue), moment(state, queue) as pair:
        with state.write() as connection, queue.write() as other:
            put(connection, "state", "call", 1)
            put(other, "queue", "call", 1)
        assert (got(pair, "state", "call"), got(pair, "queue", "call")) == (0, 0)


def test_a_long_transaction_of_another_is_waited_for(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state.db.database.BUSY", 0.02)
    url = url_of(f"{tmp_path}/syncer.db")
    checks = []
    with opened(url) as (state, queue), closing(Database.open(url)) as other:
        run = other.write()
        connection = run.__enter__()
        put(connection, "state", "call", 7)

        def check() -> None:
            checks.append(1)
            if len(checks) == 3:
                run.__exit__(None, None, None)
            with suppress(Busy), queue.write():
                return  # calls are taken meanwhile
            raise AssertionError("the queue is kept from others")

        with moment(state, queue, check) as pair:
            assert got(pair, "state", "call") == 7
    assert len(checks) == 3
