"""Accepted is durable: the daemon is killed under load, again and again, with a faulty Amberflo.

Every call that was answered with 200 must be at Amberflo exactly once after its own deduplication,
with what was sent; a call without an answer may be there, once.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from typing import Any

import httpx
import pytest

from syncer.sandbox.faults import Faults
from tests.support import processes
from tests.support.installation import Installation
from tests.support.processes import wait_until

#: How often each is killed; `KILLS=50 pytest tests/e2e/test_durable.py` is the long form.
ROUNDS = int(os.environ.get("KILLS", "4"))
FAULTS = "429=0.05,500=0.05,drop=0.05,slow=0.05,retry_after=0,slow_seconds=0.02"
KEY = "write-key"


def start(installation: Installation) -> tuple[subprocess.Popen[bytes], str]:
    log = installation.folder / "daemon.log"
    with log.open("wb") as stderr:
        daemon = processes.start(
            *("-m", "syncer", "daemon", "--config", installation.config),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    until = time.monotonic() + 30
    while time.monotonic() < until and daemon.poll() is None:
        match = re.search(r"receiving on (http://\S+)", log.read_text())
        if match:
            return daemon, match[1]
        time.sleep(0.02)
    raise AssertionError(f"the daemon did not start: {log.read_text()}")


class Sender(threading.Thread):
    """Sends batches until the server is gone; remembers what was answered with 200."""

    def __init__(self, url: str, seed: int, acknowledged: dict[str, dict[str, Any]]) -> None:
        super().__init__(daemon=True)
        self._url, self._random, self._acknowledged = url, random.Random(seed), acknowledged
        self._seed = seed

    def run(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=5) as client:
            for number in range(10_000):
                events = [self._event(f"m-{self._seed}-{number}-{index}") for index in range(20)]
                try:
                    answer = client.post("/v1/batch", json={"writeKey": KEY, "batch": events})
                except httpx.TransportError:
                    return
                if answer.status_code == 200:
                    self._acknowledged.update({event["messageId"]: event for event in events})

    def _event(self, message_id: str) -> dict[str, Any]:
        return {
            "type": "track",
            "messageId": message_id,
            "userId": f"user-{self._random.randrange(50)}",
            "event": "ApiCalls",
            "timestamp": f"2026-11-2{self._random.randrange(4)}T10:00:00.123Z",
            "properties": {"value": self._random.randrange(9), "region": "us-west-2"},
        }


@pytest.mark.parametrize("state", ["sqlite", "postgresql"])
def test_killed_under_load(
    installation: Installation, state: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_url") if state == "postgresql" else None
    installation.configure(
        state=url, more=f'[passthrough]\nlisten = "127.0.0.1:0"\nwrite_keys = ["{KEY}"]\n'
    )
    installation.amberflo.faults = Faults.parse(FAULTS, seed=5)
    acknowledged: dict[str, dict[str, Any]] = {}
    chance = random.Random(11)
    rounds = ROUNDS if state == "sqlite" else (ROUNDS + 1) // 2
    for number in range(rounds):
        daemon, address = start(installation)
        senders = [Sender(address, number * 10 + index, acknowledged) for index in range(2)]
        for sender in senders:
            sender.start()
        enough = len(acknowledged) + 20 * chance.randrange(1, 20)
        wait_until(lambda enough=enough: len(acknowledged) >= enough, what="calls")
        time.sleep(chance.uniform(0.0, 0.1))
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
        for sender in senders:
            sender.join()

    daemon, _ = start(installation)
    try:
        until = time.monotonic() + 90
        while installation.json("status")["backlog"]["events"]:
            assert time.monotonic() < until, "the backlog does not go away"
            time.sleep(0.2)
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(timeout=20) == 0

    assert len(acknowledged) > 20 * rounds
    records = {record["uniqueId"]: record for record in installation.amberflo.records}
    times = Counter(record["uniqueId"] for record in installation.amberflo.records)
    assert set(times.values()) == {1}, "a repeat that was not the same bytes"
    missing = acknowledged.keys() - records.keys()
    assert not missing, f"{len(missing)} acknowledged calls are lost"
    for message_id, event in acknowledged.items():
        record = records[message_id]
        assert record["customerId"] == event["userId"]
        assert record["meterApiName"] == "ApiCalls"
        assert record["meterValue"] == event["properties"]["value"]
        assert record["dimensions"] == {"region": "us-west-2"}
    assert installation.json("failures") == []
