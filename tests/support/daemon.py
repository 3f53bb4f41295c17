"""A running daemon for the tests: the real process with its worker, on a free port."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from state import snapshot
from state.db.database import Database
from state.snapshot import TraitRow
from syncer.engage.trait_names import trait_name
from syncer.passthrough.scopes import SCOPES
from tests.support.events import SECRET
from tests.support.installation import API_KEY, Installation, toml
from tests.support.processes import beside, descendants, is_running, wait_until

KEY = "wk-8Dq2mZ1xTfUo5"
GOOD = b'{"success": true}'
#: Seconds that a daemon has to start, to work off calls, and to end.
START, WORK, STOP = 30.0, 30.0, 20.0


@dataclass
class Daemon:
    """A daemon that receives at `url`, with health and metrics at `ops`; `log` is what it said so
    far."""

    installation: Installation
    process: subprocess.Popen[str]
    log: list[str]
    url: str = ""
    ops: str = ""
    killed: bool = False
    client: httpx.Client = field(default_factory=lambda: httpx.Client(trust_env=False, timeout=30))

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)

    def kill(self) -> None:
        """SIGKILL: the processes beside it must end by themselves."""
        self.killed = True
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(map(is_running, below)), 20, what="the end of those beside")

    @property
    def worker(self) -> int:
        """The process that sorts and delivers."""
        (worker,) = beside(self.process.pid, "worker")
        return worker

    def post(
        self,
        route: str,
        body: object,
        *,
        key: str | None = KEY,
        zipped: bool = False,
        **headers: str | bytes,
    ) -> httpx.Response:
        """POST JSON (or bytes, as they are) with the key in Basic authorization."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = httpx.Headers({"content-type": "application/json"}, encoding="latin-1")
        for name, value in headers.items():
            text = value if isinstance(value, str) else value.decode("latin-1")
            sent[name.replace("_", "-")] = text
        if zipped:
            content, sent["content-encoding"] = gzip.compress(content), "gzip"
        return self.client.post(
            f"{self.url}/v1/{route}",
            content=content,
            headers=sent,
            auth=httpx.USE_CLIENT_DEFAULT if key is None else (key, ""),
        )

    def send(self, route: str, body: object, **options: Any) -> None:
        """POST what must be taken."""
        taken(self.post(route, body, **options))

    def batch(self, *events: object, **options: Any) -> None:
        self.send("batch", {"batch": events}, **options)

    def metrics(self) -> dict[str, float]:
        """The samples of /metrics by name and labels, as they stand there."""
        answer = self.client.get(f"{self.ops}/metrics")
        assert answer.status_code == 200, answer.text
        lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def calls(self, what: str, reason: str = "") -> float:
        """How many calls ended so."""
        name = f'syncer_calls_total{{outcome="{what}",reason="{reason}"}}'
        return self.metrics().get(name, 0.0)

    def waiting(self) -> float:
        metrics = self.metrics()
        waits = ("calls_unprocessed", "meters_waiting", "customers_waiting")
        return sum(metrics[f"syncer_{name}"] for name in waits)

    def first_run(self) -> dict[str, Any]:
        """The run that a daemon with a new state makes at once, when it has ended: until then it
        keeps other runs away."""
        ended: list[dict[str, Any]] = []

        def look() -> bool:
            ended[:] = [run for run in self.installation.json("runs") if run["ended_at"]]
            return bool(ended)

        wait_until(look, what="the end of the daemon's first run")
        return ended[-1]

    def settle(self) -> None:
        """Until all that was taken is sorted and delivered, or failed."""
        wait_until(lambda: not self.waiting(), what="the end of the queue")

    def records(self, *message_ids: str) -> list[dict[str, Any]]:
        """The records that Amberflo has of these messageIds, each exactly once, in this order."""
        self.settle()
        by_message: dict[str, list[dict[str, Any]]] = {message_id: [] for message_id in message_ids}
        for record in list(self.installation.amberflo.records):
            if record["uniqueId"] in by_message:
                by_message[record["uniqueId"]].append(record)
        assert {
            message_id: len(records) for message_id, records in by_message.items()
        } == dict.fromkeys(by_message, 1)
        return [records[0] for records in by_message.values()]

    def by_customer(self, customer_id: str) -> list[dict[str, Any]]:
        """The records that Amberflo has of a customer."""
        self.settle()
        records = list(self.installation.amberflo.records)
        return [record for record in records if record["customerId"] == customer_id]

    def customer(self, customer_id: str) -> dict[str, Any]:
        """What Amberflo has of a customer."""
        self.settle()
        return self.installation.holds()[customer_id]

    def failures(self, *mark: str) -> list[dict[str, Any]]:
        """The failures in which one of these texts stands."""
        self.settle()
        rows: list[dict[str, Any]] = self.installation.json("failures")
        return [row for row in rows if any(text in str(row) for text in mark)]


def taken(answer: httpx.Response) -> None:
    """Exactly Segment's own answer."""
    assert (answer.status_code, answer.content) == (200, GOOD), answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"


def refused(answer: httpx.Response, status: int, code: str) -> str:
    """The shape of an error, without a secret in it; gives its message."""
    said = answer.json()
    assert (answer.status_code, said["code"]) == (status, code), answer.text
    assert said.keys() == {"success", "code", "message"}
    assert said["success"] is False
    assert answer.headers["access-control-allow-origin"] == "*"
    assert not holds_secret(answer.content + str(answer.headers).encode())
    assert isinstance(said["message"], str)
    return str(said["message"])


def holds_secret(text: bytes) -> bool:
    """Whether one is in it, be it with its first letter written as an escape."""
    return any(secret.encode()[1:] in text for secret in (KEY, SECRET, API_KEY))


def know(url: str, *keys: str, kind: str = "audience") -> None:
    """Make traits ours in a state, as a run does that pulls them."""
    with closing(Database.open(url)) as state, state.write() as connection:
        rows = [TraitRow(key, trait_name(key), kind, 0) for key in keys]
        snapshot.put_traits(connection, rows)


@contextmanager
def daemon(
    installation: Installation,
    *,
    state: str | None = None,
    more: str = "",
    program: str = "syncer",
    **settings: Any,
) -> Iterator[Daemon]:
    """The daemon on a free port; `settings` go to [passthrough], `more` stands at the end of the
    config. It must end well when told to, unless it was killed."""
    given = {
        "listen": "127.0.0.1:0",
        "write_keys": ["another-key", {"key": KEY, "may": SCOPES}],
        "webhook_secret": SECRET,
        **settings,
    }
    lines = [f"{key} = {toml(value)}" for key, value in given.items() if value is not None]
    installation.configure(state=state, more=f"[passthrough]\n{chr(10).join(lines)}\n{more}")
    process = installation.start("daemon", program=program)
    service = Daemon(installation, process, [])
    reading = threading.Thread(target=_read, args=(process, service.log), daemon=True)
    reading.start()
    try:
        service.url = _address(service, "receiving on")
        service.ops = _address(service, "health and metrics are at")
        _wait_for_ready(service)
        yield service
        if not service.killed:
            _stop(service)
    finally:
        service.client.close()
        if process.poll() is None:
            for pid in (*descendants(process.pid), process.pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        reading.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def _read(process: subprocess.Popen[str], log: list[str]) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        log.append(line.rstrip("\n"))


def _address(service: Daemon, what: str) -> str:
    address = re.compile(rf'{what} (http://[^\s"]+)')

    def look() -> bool:
        assert service.process.poll() is None, "\n".join(service.log)
        return any(address.search(line) for line in service.log)

    wait_until(look, START, what="the daemon's address")
    (match,) = filter(None, map(address.search, service.log))
    return match[1]


def _wait_for_ready(service: Daemon) -> None:
    def ready() -> bool:
        assert service.process.poll() is None, "\n".join(service.log)
        return service.client.get(f"{service.ops}/readyz").text == "ready\n"

    wait_until(ready, START, what="ready")


def _stop(service: Daemon) -> None:
    """SIGTERM: it ends well, in time, quietly, and leaves no process behind."""
    below = descendants(service.process.pid)
    if service.process.poll() is None:
        service.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert service.process.wait(STOP) == 0, "\n".join(service.log)
    assert time.monotonic() - began < STOP
    wait_until(lambda: not any(map(is_running, below)), 5, what="the end")
    said = "\n".join(service.log)
    assert "Traceback" not in said, said
