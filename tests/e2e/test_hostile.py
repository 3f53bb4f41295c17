"""What was accepted costs itself only: whatever it holds, those behind it get through."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import orjson
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, insert, select

from state import failures, outbox, queue
from state.db import database as databases
from state.db.database import Database
from state.db.tables import INBOX
from state.errors import StateError
from state.queue import Accepted
from syncer.daemon import ops
from syncer.daemon.ops import Ops
from syncer.engage import calls as engage
from syncer.engage import calls as engage_calls
from syncer.passthrough import call as calls
from syncer.passthrough import mapping
from syncer.passthrough.inbox import Inbox
from syncer.passthrough.processor import UNPROCESSABLE, Processor
from syncer.process.problem import ProblemLog
from syncer.process.server import bind
from syncer.process.supervisor import Supervisor
from tests.support.events import unique
from tests.support.processes import wait_until

Json = dict[str, Any]


class Bench:
    """The queue, the state and what sorts, without a daemon around them."""

    def __init__(self, url: str) -> None:
        self.calls, self.state = Database.open(url, "queue"), Database.open(url)
        self.processor = Processor(self.calls, self.state, ["*"], ["total_*"])

    def accept(self, *requests: tuple[str, bytes], events: int = 1) -> None:
        """As one commit of the inbox takes them in."""
        now = int(time.time() * 1000)
        rows = [Accepted(path, body, events, now) for path, body in requests]
        with self.calls.write() as connection:
            queue.accept(connection, rows)

    def sort(self) -> None:
        while self.processor.process():
            pass
        assert self.inbox() == 0

    def inbox(self) -> int:
        with self.calls.read() as connection:
            return int(connection.execute(select(func.count()).select_from(INBOX)).scalar_one())

    def failures(self) -> list[Any]:
        with self.state.read() as connection:
            return failures.find(connection)

    def counters(self) -> dict[tuple[str, str], int]:
        with self.calls.read() as connection:
            return queue.counters(connection)

    def records(self) -> list[str]:
        with self.calls.write() as connection:
            due = queue.claim(connection, 1, 2**62, 10**6)
        return [record.message_id for record in due]

    def customers(self) -> set[str]:
        with self.state.write() as connection:
            return {row.customer_id for row in outbox.claim(connection, 1, 2**62, 10**6)}

    def close(self) -> None:
        self.calls.close()
        self.state.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'syncer.db'}"
    else:
        url = request.getfixturevalue("postgres_url")
    with closing(Bench(url)) as bench:
        yield bench


def track(**more: Any) -> bytes:
    event = {"type": "track", "userId": "u1", "event": "E", "messageId": unique()}
    return json.dumps(event | more).encode()


def id_of(event: bytes) -> str:
    return str(orjson.loads(event)["messageId"])


def test_a_request_that_cannot_be_sorted_is_kept_and_stops_nobody(bench: Bench) -> None:
    good = [track() for _ in range(4)]
    bench.accept(("track", good[0]), ("batch", b'{"batch":[\xff\0'), ("track", good[1]))
    with bench.calls.write() as connection:  # no row of the inbox at all
        row = insert(INBOX).values(body=b"garbage", events=1, received_at=5)
        connection.execute(row)
    bench.accept(("nowhere", good[2]), ("track", good[3]))
    bench.sort()
    assert sorted(bench.records()) == sorted(map(id_of, (good[0], good[1], good[3])))
    kept = bench.failures()
    assert {failure.reason for failure in kept} == {UNPROCESSABLE}
    texts = {failure.request for failure in kept}
    assert texts == {'{"batch":[\\xff\\x00', "garbage", good[2].decode()}
    assert bench.counters()["rejected", UNPROCESSABLE] == 3


def test_what_the_database_cannot_hold_is_kept_and_stops_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a bound fail us: PostgreSQL refuses what does not fit its indexes."""
    monkeypatch.setattr(engage_calls, "MAX_ID", 20_000)
    chance = random.Random(4)
    long = "".join(chr(chance.randrange(0x20000, 0x2A6DF)) for _ in range(4000))
    users = [unique("user") for _ in range(3)]
    bodies = [
        orjson.dumps({"userId": user, "traits": {"plan": "pro"}, "messageId": unique()})
        for user in (users[0], long, users[1])
    ]
    bench.accept(*(("identify", body) for body in bodies), ("track", track()))
    bench.accept(("identify", orjson.dumps({"userId": users[2], "traits": {"a": 1}})))
    bench.sort()
    assert set(users) <= bench.customers()
    assert len(bench.records()) == 1
    if bench.state.engine.dialect.name == "postgresql":
        (kept,) = bench.failures()
        assert (kept.reason, kept.request) == (UNPROCESSABLE, bodies[1].decode())


def test_trouble_of_the_database_is_nobodys_failure(tmp_path: Path) -> None:
    """It is tried again, not given up."""
    with closing(Bench(f"sqlite:///{tmp_path / 'syncer.db'}")) as bench:
        bench.accept(("identify", orjson.dumps({"userId": "u1", "traits": {"a": 1}})))
        with bench.state.write() as connection:
            connection.exec_driver_sql("ALTER TABLE customer RENAME TO elsewhere")
        with pytest.raises(StateError, match="no such table"):
            bench.processor.process()
        assert (bench.inbox(), bench.failures()) == (1, [])
        with bench.state.write() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO customer")
        bench.sort()
        assert bench.customers() == {"u1"}


SCRIPTS = {
    "ascii": (0x21, 0x7E),
    "latin": (0xC0, 0x24F),
    "hebrew": (0x5D0, 0x5EA),
    "kanji": (0x4E00, 0x9FFF),
    "rare": (0x20000, 0x2A6DF),
}


def hostile(chance: random.Random) -> Iterator[Json]:
    """Calls with ids and keys of every size and script, and what no database likes in any place."""
    for first, last in SCRIPTS.values():
        for size in (1, 99, 100, 101, 249, 251, 399, 401, 499, 501, 999, 1000, 1001, 8000):

            def text(most: int, first: int = first, last: int = last) -> str:
                return "".join(chr(chance.randrange(first, last + 1)) for _ in range(most))

            key, ascii_key = text(size), f"k{size}{text(size).encode().hex()}"[: min(size, 400)]
            for name in (key, ascii_key):
                personas = {"computation_class": "audience", "computation_key": name}
                yield {
                    "type": "identify",
                    "userId": text(size),
                    "traits": {name: True},
                    "context": {"personas": personas},
                }
            yield {"type": "track", "userId": text(size), "event": text(size), "messageId": key}
            yield {"type": "track", "anonymousId": text(size), "event": "E", "messageId": None}
            yield {
                "type": "identify",
                "userId": text(size),
                "traits": {text(size): text(size), "name": text(size), "email": text(size)},
            }
    for odd in ("a\0b", "\0", "\ud800", "\udc00x", "\ufffe", "\x1b[31m", 10**400, -(10**30), 1e308):
        text_of = odd if isinstance(odd, str) else "k"
        personas = {"computation_class": "trait", "computation_key": "total_1"}
        yield {"type": "track", "userId": odd, "event": text_of, "properties": {text_of: odd}}
        yield {"type": "track", "userId": "u", "event": text_of, "messageId": odd}
        yield {"type": "page", "userId": "u", "name": odd, "properties": {"a": [odd, {"b": odd}]}}
        yield {
            "type": "identify",
            "userId": "u",
            "traits": {text_of: odd, "l": [odd], "o": {"p": odd}, "name": odd, "email": odd},
        }
        yield {
            "type": "identify",
            "userId": "u",
            "traits": {"total_1": [odd, {"a": odd}], text_of: 1},
            "context": {"personas": personas},
        }
        personas = {"computation_class": odd, "computation_key": text_of}
        yield {"type": "track", "userId": "u", "event": "E", "context": {"personas": personas}}


def test_hostile_calls_leave_the_queue_empty(bench: Bench) -> None:
    events = list(hostile(random.Random(7)))
    last = track()
    for start in range(0, len(events), 50):
        body = json.dumps({"batch": events[start : start + 50]}).encode()
        bench.accept(("batch", body), events=50)
    bench.accept(("track", last))
    bench.sort()
    assert id_of(last) in bench.records()
    reasons = {failure.reason for failure in bench.failures()}
    assert UNPROCESSABLE not in reasons
    assert {calls.BAD_ID, calls.BAD_MESSAGE_ID, engage.BAD_MEMBERSHIP} <= reasons
    assert bench.counters()["dropped", mapping.LONG_NAME] > 10
    longest = max(len(customer_id.encode()) for customer_id in bench.customers())
    assert longest == 1000


# Readiness


def test_readiness_comes_back_without_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While calls cannot be stored it tries a real write: an orchestrator sends no call to who is
    not ready."""
    monkeypatch.setattr(databases, "BUSY", 1)
    url, said = f"sqlite:///{tmp_path / 'syncer.db'}", list[str | None]()
    with closing(Database.open(url, "queue")) as database, closing(Bench(url)) as bench:
        inbox = Inbox(database, 1000, on_problem=said.append)
        inbox.start(Supervisor())
        try:
            with database.write():
                error = asyncio.run(refusal_of(inbox))
                assert "locked" in str(error)
                wait_until(lambda: inbox.problem is not None, 5)
                time.sleep(2.5)  # a probe has failed, too
                assert inbox.problem is not None
            wait_until(lambda: inbox.problem is None, 10, what="readiness")
            assert said[-1] is None
            assert any(said)
            assert bench.inbox() == 0
            bench.sort()
            assert bench.counters() == {}
        finally:
            inbox.stop()
        assert not inbox.alive


async def refusal_of(inbox: Inbox) -> StateError:
    with pytest.raises(StateError) as refusal:
        await inbox.take(Accepted("track", track(), 1, 1))
    return refusal.value


class Odd(Collector):
    """Metrics that cannot be read while there is an error."""

    def __init__(self, errors: list[Exception]) -> None:
        self._errors = errors

    def collect(self) -> Iterator[Metric]:
        for error in self._errors:
            raise error
        return iter(())


def test_health_is_told_apart_from_the_calls(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also while the loop that takes them hangs, and in few words."""
    problem: list[str] = []
    registry, odd = CollectorRegistry(), list[Exception]()
    registry.register(Odd(odd))
    service = Ops(registry, lambda: problem[0] if problem else None, ProblemLog("metrics"))
    listener = bind("127.0.0.1", 0)
    service.start(listener, Supervisor())
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert ask(url, "healthz") == (200, "alive\n")
        assert ask(url, "readyz") == (200, "ready\n")
        assert ask(url, "metrics")[0] == 200
        odd.append(ValueError("no JSON"))
        with caplog.at_level("ERROR"):
            for _ in range(3):  # Prometheus asks again and again
                assert ask(url, "metrics") == (503, "the database does not answer\n")
        lines = [(record.getMessage(), record.exc_info is not None) for record in caplog.records]
        assert lines == [("metrics: an unexpected ValueError; the log has where", True)]
        odd.clear()
        assert ask(url, "metrics")[0] == 200
        problem.append("calls cannot be stored")
        assert ask(url, "readyz") == (503, "calls cannot be stored\n")
        assert ask(url, "healthz") == (200, "alive\n")
        monkeypatch.setattr(ops, "HANGS_AFTER", 0.0)
        assert ask(url, "healthz") == (503, "calls are not taken\n")
        assert ask(url, "readyz") == (503, "calls are not taken\n")
        monkeypatch.setattr(ops, "HANGS_AFTER", 30.0)
        service.beat()
        assert ask(url, "healthz") == (200, "alive\n")
    finally:
        service.stop()
        listener.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "ops"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1)


def ask(url: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{url}/{path}", timeout=10) as answer:
            return int(answer.status), answer.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()
