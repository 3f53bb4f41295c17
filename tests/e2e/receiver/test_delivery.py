"""Delivery and failures, start and end, and secrets."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import orjson
from sqlalchemy import event as engine_event

from state import failures, queue
from state.db.database import Database
from syncer.passthrough.mapping import (
    BAD_VALUE,
)
from syncer.sandbox.faults import Faults
from tests.e2e.receiver.helpers import Workbench, inbox_of, keeps_no_secret, stopped_worker
from tests.support.daemon import GOOD, KEY, Daemon, daemon, holds_secret, know
from tests.support.events import ago, engage_call, sign, track, unique
from tests.support.installation import Installation
from tests.support.processes import wait_until

# Delivery and failures


def test_one_bad_record_costs_no_other(receiver: Daemon) -> None:
    """Amberflo refuses a whole batch for one record (put into the queue past the mapping, which
    makes none that Amberflo refuses); it is found by halving."""
    names = [unique("queued") for _ in range(7)]
    bad = names[3]
    rows = []
    for name in names:
        record = {
            "uniqueId": name,
            "customerId": "u1",
            "meterApiName": "E",
            "meterValue": 1,
            "meterTimeInMillis": 1_700_000_000_000,
            "dimensions": {},
        }
        if name == bad:
            record["dimensions"] = {"path": "/home"}
        rows.append(queue.EventRow(name, orjson.dumps(record), 1, 1))
    url = f"sqlite:///{receiver.installation.folder / 'syncer.db'}"
    with closing(Database.open(url, "queue")) as database, database.write() as connection:
        queue.store_processed(connection, [], rows)
    receiver.records(*(name for name in names if name != bad))
    (failure,) = receiver.failures(bad)
    assert (failure["kind"], failure["status"], failure["message_id"]) == ("meter", 400, bad)
    assert failure["customer_id"] == "u1"
    assert "dimension 'path' must match" in failure["reason"]
    assert "dimension 'path' must match" in failure["body"]
    assert failure["request"].encode() == rows[3].record
    number = str(failure["id"])
    assert receiver.installation.json("failures", "discard", number) == {"discarded": 1}
    assert receiver.failures(bad) == []


def test_large_records_are_split_until_amberflo_takes_them(receiver: Daemon) -> None:
    """A hundred of them are more than Amberflo takes at once: 413, and in halves it gets them."""
    names = [unique() for _ in range(100)]
    dimensions = {f"d{number}": "x" * 200 for number in range(110)}
    for start in range(0, 100, 20):
        receiver.batch(
            *(track(messageId=name, properties=dimensions) for name in names[start : start + 20])
        )
    records = receiver.records(*names)
    assert all(record["dimensions"] == dimensions for record in records)


def test_refused_records_are_kept_and_retried_when_asked(receiver: Daemon) -> None:
    installation = receiver.installation
    events = [track(properties={"value": number}, userId="refused") for number in range(3)]
    receiver.settle()
    installation.amberflo.odd = {"refused": "400"}
    try:
        receiver.batch(*events, track())  # one that gets through beside them
        failures = receiver.failures(*(event["messageId"] for event in events))
        assert [failure["status"] for failure in failures] == [400] * 3
        assert [failure["attempts"] for failure in failures] == [2] * 3
        assert "answered 400: Bad Request" in failures[0]["reason"]
        numbers = [str(failure["id"]) for failure in failures]
    finally:
        installation.amberflo.odd = {}
    try:
        installation.amberflo.max_records = 2
        installation.json("failures", "retry", *numbers[:2])
        records = receiver.records(*(event["messageId"] for event in events[:2]))
        assert [record["meterValue"] for record in records] == [0, 1]
        (last_failure,) = receiver.failures(*(event["messageId"] for event in events))
        assert str(last_failure["id"]) == numbers[2]
        installation.json("failures", "discard", numbers[2])
        assert receiver.failures(events[2]["messageId"]) == []
        assert events[2]["messageId"] not in str(installation.amberflo.records)
        # A repeat of what was refused and given up is a repeat still.
        receiver.batch(*events)
        receiver.records(*(event["messageId"] for event in events[:2]))
    finally:
        installation.amberflo.max_records = None


def test_a_call_that_cannot_be_taken_is_not_lost_by_a_retry(receiver: Daemon) -> None:
    event = track(properties={"value": "abc"})
    receiver.batch(event)
    (failure,) = receiver.failures(event["messageId"])
    assert orjson.loads(failure["request"]) == event
    number = str(failure["id"])
    receiver.installation.run("failures", "retry", number, exit_code=1)
    (kept,) = receiver.failures(event["messageId"])
    assert kept["reason"] == BAD_VALUE
    receiver.installation.run("failures", "discard", str(kept["id"]))
    assert receiver.failures(event["messageId"]) == []


def test_a_failing_amberflo_loses_and_doubles_nothing(receiver: Daemon) -> None:
    installation = receiver.installation
    faults = "429=0.1,500=0.1,503=0.1,drop=0.2,slow=0.1,slow_seconds=0.05,retry_after=0"
    installation.amberflo.faults = Faults.parse(faults, seed=4)
    users = [unique("user") for _ in range(10)]
    try:
        events = [track(userId=user, properties={"n": n}) for n in range(20) for user in users]
        for start in range(0, 200, 10):
            receiver.batch(*events[start : start + 10])
        receiver.batch(
            *({"type": "identify", "userId": user, "traits": {"x": user}} for user in users)
        )
        time.sleep(0.5)
    finally:
        installation.amberflo.faults = Faults()
    records = receiver.records(*(event["messageId"] for event in events))
    assert [record["customerId"] for record in records] == users * 20
    assert all(receiver.customer(user)["traits"] == {"x": user} for user in users)
    assert installation.amberflo.stats()["overlapping_writes"] == 0


def test_more_bad_events_than_one_statement_has_room_for(tmp_path: Path) -> None:
    """Small requests, many events, each a failure; SQLite as it is built by default takes 32,766
    values in a statement, PostgreSQL 65,535."""
    with closing(Workbench(tmp_path)) as bench:

        def as_by_default(connection: sqlite3.Connection, _record: object) -> None:
            connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)

        engine_event.listen(bench.state.engine, "connect", as_by_default)
        bench.state.close()
        body = orjson.dumps({"batch": [{}] * 2500})
        with bench.calls.write() as connection:  # as one commit may take them in
            queue.accept(connection, [queue.Accepted("batch", body, 2500, 1)] * 14)
        while bench.processor.process():
            pass
        with bench.state.write() as connection:
            rows = failures.find(connection)
            assert len(rows) == failures.CALLS
            assert failures.remove(connection, [row.id for row in rows]) == len(rows)


def test_answers_come_at_once(receiver: Daemon) -> None:
    """Also on a connection that stays open: no part of an answer waits for the client's next
    acknowledgement (40 ms)."""
    times = []
    for _ in range(25):
        began = time.perf_counter()
        receiver.send("track", track())
        times.append(time.perf_counter() - began)
    assert sorted(times)[12] < 0.025


# Start and end


def test_what_is_under_way_at_the_end_is_answered_and_taken_up_again(
    installation: Installation,
) -> None:
    installation.amberflo.faults = Faults.parse("503=1")
    waiting, late = track(), track()
    with daemon(installation) as service:
        assert "another daemon is running on this state" in fails_to_start(installation, 1)
        service.send("track", waiting)
        body = orjson.dumps(late | {"writeKey": KEY})
        with closing(connect(service.address)) as connection:
            connection.sendall(head_of(body) + body[:20])
            wait_until(lambda: service.metrics())
            service.process.send_signal(signal.SIGTERM)
            wait_until(lambda: not listens(service.address), 5, what="the end of listening")
            connection.sendall(body[20:])
            assert answer_of(connection) == (b"HTTP/1.1 200 OK", GOOD)
    assert installation.amberflo.records == []
    installation.amberflo.faults = Faults()
    with daemon(installation) as service:
        service.records(waiting["messageId"], late["messageId"])
        keeps_no_secret(service)


def test_every_line_of_the_log_is_json_where_that_is_wanted(installation: Installation) -> None:
    """Also of what the server under us says, and at the end with a request that never ends."""
    with daemon(installation, more='[log]\nformat = "json"') as service:
        with closing(connect(service.address)) as connection:
            connection.sendall(b"GARBAGE\r\n\r\n")
            assert b"400 Bad Request" in connection.recv(1000)
        with closing(connect(service.address)) as connection:
            connection.settimeout(20)
            connection.sendall(head_of(b"x" * 100) + b"{")
            wait_until(lambda: service.metrics())
            service.process.send_signal(signal.SIGTERM)
            assert b"503 Service Unavailable" in connection.recv(1000)
    lines = [json.loads(line) for line in service.log]
    assert {line["level"] for line in lines} <= {"info", "warning", "error"}
    assert [line["message"] for line in lines[-2:]] == ["stopping", "stopped"]


def fails_to_start(installation: Installation, status: int) -> str:
    """A daemon ends at once, with one clear line."""
    process = installation.start("daemon")
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == status, said
    assert "Traceback" not in said
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return error


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=10)


def head_of(body: bytes) -> bytes:
    return b"POST /v1/track HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)


def answer_of(connection: socket.socket) -> tuple[bytes, bytes]:
    """The first line and the body of an answer."""
    read = b""
    while not read.endswith(GOOD):
        chunk = connection.recv(10_000)
        assert chunk, read
        read += chunk
    head, _, body = read.partition(b"\r\n\r\n")
    return head.partition(b"\r\n")[0], body


def listens(address: tuple[str, int]) -> bool:
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_address_that_is_taken(installation: Installation) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        installation.configure(more=f'[passthrough]\nlisten = "{address}"\n')
        said = fails_to_start(installation, 2)
    assert f"error: passthrough.listen: cannot listen on {address}" in said


def test_on_postgresql(installation: Installation, postgres_url: str) -> None:
    """The state and the queue on PostgreSQL; many bad events at once are not too many for it."""
    know(postgres_url, "vip")
    with daemon(installation, state=postgres_url) as service:
        user, name = unique("user"), unique()
        with stopped_worker(service):
            for _ in range(4):
                service.send("batch", {"batch": [{"type": "page"}] * 2500})
        service.batch(
            track(messageId=name, userId=user),
            track(messageId=name, userId=user),
            {"type": "identify", "userId": user, "traits": {"name": "Ada", "plan": "pro"}},
            engage_call(user, "vip", True, ago(1)),
            track(messageId=name + "x", userId=user, properties={"a": "x\0y", "value": "abc"}),
        )
        assert service.records(name)[0]["customerId"] == user
        assert service.customer(user) == {
            "customerName": "Ada",
            "customerEmail": None,
            "traits": {"plan": "pro", "vip": True},
        }
        assert service.calls("repeated") == 1
        assert service.metrics()["syncer_failures"] == failures.CALLS
        assert service.calls("failure", "let go") == 1
        audited = installation.json("audit", "customer", user)
        keys = [(change["key"], change["run"]) for change in audited["changes"]]
        assert keys == [("name", None), ("plan", None), ("vip", None)]


# Secrets


def test_no_secret_is_kept_or_told(receiver: Daemon) -> None:
    """However a key is given: no file of the state has it, no answer, no log."""
    written_keys = [
        f'"writeKey":"{KEY}"',
        f'"writeKey"\n:\t"{KEY}"',
        f'"writeKey":"\\u0077{KEY[1:]}"',
        f'"writeKey":"{KEY}","context":{{"writeKey":"{KEY}","a":[{{"writeKey": "{KEY}"}}]}}',
    ]
    with stopped_worker(receiver):
        for text in written_keys:
            name = unique()
            event = f'{{"userId":"u1","type":"track","event":"E","messageId":"{name}",{text}}}'
            batch = f'{{"batch":[{event.replace("userId", "user")},{event}],{text}}}'
            receiver.send("track", event.encode(), key=None)
            receiver.send("batch", batch.encode(), key=None)
            first = event.encode()
            receiver.send(
                f"webhook?key={KEY}", b"[" + first + b"]", key=None, x_signature=sign(first)
            )
        keeps_no_secret(receiver)
        rows = inbox_of(receiver)
        assert len(rows) == 3 * len(written_keys)
        assert [row.body for row in rows if holds_secret(row.body)] == []
    receiver.settle()
    keeps_no_secret(receiver)
    assert not holds_secret(orjson.dumps(receiver.installation.json("failures")))
    assert not holds_secret(receiver.client.get(f"{receiver.url}/metrics").content)
    for body in (b"{", f'{{"writeKey":"{KEY}"'.encode(), orjson.dumps({"writeKey": KEY})):
        answer = receiver.post("track", body)
        assert answer.status_code == 400
        assert not holds_secret(answer.content)
