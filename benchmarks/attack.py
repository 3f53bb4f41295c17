"""The daemon under attack: by who has a public key, and by who has none.

    python -m benchmarks.attack [--minutes 10] [--strangers 60]

The daemon, both stand-ins and the attackers are processes of their own; the rate of Amberflo is the
default one. First, for so many minutes, four connections with a bare write key send all that such a
key may be used for: deletes, memberships, traits of others, dates beyond the calendar, ids of every
script and size, batches of nothing, thousands of made-up customers. Then, for so many seconds,
strangers without a key send headers without an end, bodies that unzip to much, requests whose
answers they never read, and hold idle connections. All the while a good caller sends a track and a
membership a second. Prints how long its calls took to Amberflo and to their answer, the memory of
the processes, whether /healthz answered; and what is different for customers that the attacker does
not own, which must be nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import copy
import gzip
import json
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import orjson

from benchmarks.endtoend import child
from state.db.database import Database
from state.db.tables import CHANGE, TRAIT
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox

PUBLIC, SERVER, API_KEY = "public-key-of-a-page", "key-of-a-server", "api-key-of-amberflo"
CONFIG = """\
[amberflo]
api_key = "{api_key}"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
[engage.profiles_sync]
url = "sqlite:///{folder}/engage.db"
[state]
url = "sqlite:///{folder}/state.db"
[ops]
listen = "127.0.0.1:0"
[passthrough]
listen = "127.0.0.1:0"
webhook_secret = "a-secret-of-webhooks"
write_keys = ["{public}", {{ key = "{server}", may = ["track", "memberships"], name = "server" }}]
"""
#: Whom the attacker made up, and the good caller's own customer.
OWN, GOOD = "attacker-", "good-customer"
Json = dict[str, Any]


# -- what an attacker sends


def _personas(user: str, key: str, value: object, of: str = "audience", **more: Any) -> Json:
    about = {"computation_class": of, "computation_key": key}
    return {
        "type": "track",
        "userId": user,
        "event": "Audience Entered",
        "properties": {key: value},
        "context": {"personas": about},
        **more,
    }


def _odd(chance: random.Random) -> str:
    """An id or key of any script and size."""
    first = chance.choice([0x41, 0x416, 0x4E00, 0x1F600, 0x20000])
    text = chr(first + chance.randrange(20)) * chance.choice([1, 20, 99, 250, 500, 1200])
    return f"{OWN}{text}"


def hostile(victims: list[str], traits: list[str], chance: random.Random) -> tuple[str, Any]:
    """One request: its path and its body."""
    victim, trait = chance.choice(victims), chance.choice([*traits, "stripe_id"])
    late = chance.choice(["9999-12-31T23:59:59Z", "12025-01-01T00:00:00Z", "2569-01-01T00:00:00Z"])
    made_up = f"{OWN}{chance.randrange(10**9)}"
    kinds: list[tuple[str, Any]] = [
        ("webhook", [{"type": "delete", "userId": user} for user in victims]),
        ("batch", {"batch": [{"type": "delete", "userId": user} for user in victims]}),
        ("track", _personas(victim, trait, False, timestamp=late)),
        ("batch", {"batch": [_personas(made_up, trait, True)]}),
        ("batch", {"batch": [_personas(victim, trait, {"x": 1}, "trait")]}),
        ("batch", {"batch": [_personas(made_up, _odd(chance), True) for _ in range(500)]}),
        ("batch", {"batch": [0] * 2500}),
        ("identify", {"userId": victim, "traits": {trait: True, "stripeId": None}}),
        ("identify", {"userId": made_up, "traits": {"name": "x"}, "timestamp": late}),
        (
            "batch",
            {
                "batch": [
                    {"type": "identify", "userId": f"{made_up}-{n}", "traits": {"name": "x"}}
                    for n in range(400)
                ]
            },
        ),
        (
            "identify",
            {"userId": made_up, "traits": {f"t{chance.random()}": n for n in range(500)}},
        ),
        (
            "track",
            {
                "userId": made_up,
                "event": "E",
                "messageId": f"good-{int(time.time()) + chance.randrange(60)}",
                "properties": {"value": -1e308, "aflo.cancel_previous_resource_event": True},
            },
        ),
        ("track", {"userId": _odd(chance), "event": _odd(chance), "timestamp": late}),
    ]
    return chance.choice(kinds)


async def _attack(port: int, victims: list[str], traits: list[str], seconds: float) -> None:
    """Four connections, each with its next request as soon as the last is answered."""
    end, answers = time.monotonic() + seconds, dict[int, int]()

    async def attacker(number: int) -> None:
        chance = random.Random(number)
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
            while time.monotonic() < end:
                path, body = hostile(victims, traits, chance)
                content = gzip.compress(orjson.dumps(body), 1)
                with suppress(httpx.HTTPError):
                    answer = await client.post(
                        f"http://127.0.0.1:{port}/v1/{path}?key={PUBLIC}",
                        content=content,
                        headers={"content-encoding": "gzip"},
                        auth=(PUBLIC, ""),
                    )
                    answers[answer.status_code] = answers.get(answer.status_code, 0) + 1

    await asyncio.gather(*(attacker(number) for number in range(4)))
    print(json.dumps({"answers": answers}), flush=True)


async def _flood(port: int, seconds: float) -> None:
    """Strangers: endless headers, bodies that unzip to much, answers never read, idle ones."""
    end = time.monotonic() + seconds
    ones = b"1," * 240_000
    bomb = gzip.compress(b'{"x":NaN,"v":[' + ones + b"1]}")
    head = b"POST /v1/track HTTP/1.1\r\nhost: x\r\ncontent-encoding: gzip\r\n"
    post = head + b"content-length: %d\r\n\r\n%s" % (len(bomb), bomb)

    async def again(what: Any) -> None:
        while time.monotonic() < end:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(max(end - time.monotonic(), 0.1)):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    try:
                        await what(reader, writer)
                    finally:
                        writer.close()
            await asyncio.sleep(0.01)

    async def headers(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST /v1/track HTTP/1.1\r\n")
        while True:
            writer.write(b"x-a: b\r\n" * 100)
            await writer.drain()

    async def bombs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(post)
            await writer.drain()
            await reader.readuntil(b"}")

    async def deaf(_: Any, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"GET /v1/projects/x/settings HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
            await writer.drain()

    async def idle(*_: Any) -> None:
        await asyncio.sleep(seconds)

    crowd = [*[headers] * 10, *[bombs] * 20, *[deaf] * 200, *[idle] * 2500]
    await asyncio.gather(*(again(what) for what in crowd))


# -- who watches


class Good:
    """The good caller: a track and a membership a second, and when each was at Amberflo."""

    def __init__(self, url: str, amberflo: AmberfloSandbox, trait: str) -> None:
        self.answers: list[float] = []
        self.arrivals: list[float] = []
        self.failed = 0
        self._url, self._amberflo, self._trait = url, amberflo, trait
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        with httpx.Client(trust_env=False, timeout=30, auth=(SERVER, "")) as client:
            while not self._over.is_set():
                number += 1
                self._send(client, number)
                self._over.wait(1.0)

    def _send(self, client: httpx.Client, number: int) -> None:
        member, message = bool(number % 2), f"good-{int(time.time())}"
        track = {"type": "track", "userId": GOOD, "event": "Good", "messageId": message}
        began = time.monotonic()
        body = {"batch": [track, _personas(GOOD, self._trait, member)]}
        try:
            answer = client.post(f"{self._url}/v1/batch", content=orjson.dumps(body))
            self.failed += answer.status_code != 200
        except httpx.HTTPError:
            self.failed += 1
            return
        self.answers.append(time.monotonic() - began)
        while time.monotonic() - began < 60:
            records = self._amberflo.records
            arrived = any(record["uniqueId"] == message for record in reversed(records[-500:]))
            traits = self._amberflo.customers.get(GOOD, {}).get("traits", {})
            if arrived and traits.get(self._trait) is member:
                break
            time.sleep(0.01)
        self.arrivals.append(time.monotonic() - began)


def memory(process: int) -> float:
    """The resident memory of a process now, in MB."""
    match = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def _quantiles(values: list[float]) -> str:
    ordered = sorted(values)
    p99 = statistics.quantiles(ordered, n=100)[98] if len(ordered) > 1 else ordered[0]
    return (
        f"median {statistics.median(ordered):.3f} s, p99 {p99:.3f} s, longest {ordered[-1]:.3f} s"
    )


def _of_others(database: Path) -> tuple[int, list[Any]]:
    """The history rows of customers that are the attacker's or the good caller's, not counted, and
    the traits that are ours."""
    with closing(Database.open(f"sqlite:///{database}")) as state, state.read() as connection:
        changes = connection.execute(
            CHANGE.select().where(
                CHANGE.c.customer_id != GOOD, ~CHANGE.c.customer_id.startswith(OWN)
            )
        ).all()
        traits = connection.execute(TRAIT.select().order_by(TRAIT.c.key)).all()
    return len(changes), [row.key for row in traits]


def _holds(amberflo: AmberfloSandbox) -> Json:
    return {
        customer_id: copy.deepcopy({**record, "updateTime": 0})
        for customer_id, record in amberflo.customers.items()
        if customer_id != GOOD and not customer_id.startswith(OWN)
    }


def _watch(
    what: str, attackers: subprocess.Popen[str], good: Good, ops: str, processes: list[int]
) -> None:
    """Until the attackers end; then say how it was."""
    highest, health, began = [0.0] * len(processes), list[float](), time.monotonic()
    first: list[float] = []
    while attackers.poll() is None:
        asked = time.monotonic()
        answer = httpx.get(f"{ops}/healthz", trust_env=False, timeout=30)
        assert answer.status_code == 200, answer.text
        health.append(time.monotonic() - asked)
        now = [memory(process) for process in processes]
        highest = [max(pair) for pair in zip(highest, now, strict=True)]
        if not first and time.monotonic() - began > 60:
            first = now
        time.sleep(1.0)
    said = attackers.communicate()[0].strip()
    print(f"{what}: {time.monotonic() - began:.0f} s {said}")
    print(f"  good calls {len(good.answers)}, refused {good.failed}")
    print(f"  answered: {_quantiles(good.answers)}")
    print(f"  at Amberflo: {_quantiles(good.arrivals)}")
    print(f"  /healthz: {_quantiles(health)}")
    rows = zip(("receiver", "worker"), first or highest, highest, now, strict=True)
    for name, early, most, last in rows:
        print(f"  {name}: {early:.0f} MB after a minute, {most:.0f} at most, {last:.0f} at the end")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--strangers", type=float, default=60.0)
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    if options.attack:
        given = json.loads(base64.b64decode(options.attack))
        asyncio.run(_attack(**given) if "victims" in given else _flood(**given))
        return
    with tempfile.TemporaryDirectory() as folder, closing(Installed(Path(folder))) as installation:
        installation.attack(options.minutes * 60, options.strangers)


class Installed:
    """Both stand-ins and the daemon, after a first sync."""

    def __init__(self, folder: Path) -> None:
        self._state = folder / "state.db"
        self._amberflo = AmberfloSandbox(API_KEY)
        self._running = running(self._amberflo)
        config = folder / "config.toml"
        config.write_text(
            CONFIG.format(
                api_key=API_KEY,
                amberflo=self._running.__enter__(),
                folder=folder,
                public=PUBLIC,
                server=SERVER,
            )
        )
        with closing(EngageSandbox(f"sqlite:///{folder}/engage.db", seed=1)) as engage:
            engage.fill(200, 4)
        program = [sys.executable, "-m", "syncer"]
        more = ["--config", str(config)]
        subprocess.run([*program, "sync", *more], check=True, capture_output=True)
        for number, record in enumerate(self._amberflo.customers.values()):
            record["traits"] |= {"stripe_id": f"cus_{number}", "plan": "gold"}
        self._daemon = subprocess.Popen(
            [*program, "daemon", *more], stderr=subprocess.PIPE, text=True
        )
        assert self._daemon.stderr is not None
        said = [next(self._daemon.stderr) for _ in range(2)]
        self._ops = next(line.split()[-1] for line in said if "health and metrics" in line)
        self._url = next(line.split()[-1] for line in said if "receiving on" in line)
        threading.Thread(target=self._daemon.stderr.read, daemon=True).start()
        time.sleep(3)

    def attack(self, by_key: float, by_strangers: float) -> None:
        before, history = _holds(self._amberflo), _of_others(self._state)
        trait = history[1][0]
        processes = [self._daemon.pid, child(self._daemon.pid)]
        port = int(self._url.rpartition(":")[2])
        plans: list[tuple[str, Json]] = [
            (
                "public key",
                {"victims": sorted(before), "traits": history[1], "seconds": by_key, "port": port},
            ),
            ("strangers", {"seconds": by_strangers, "port": port}),
        ]
        for what, plan in plans:
            if plan["seconds"]:
                told = base64.b64encode(orjson.dumps(plan)).decode()
                attackers = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.attack", "--attack", told],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                good = Good(self._url, self._amberflo, trait)
                _watch(what, attackers, good, self._ops, processes)
                good.stop()
        after = _holds(self._amberflo)
        changed = sum(
            before.get(customer_id) != after.get(customer_id) for customer_id in before | after
        )
        rows, traits = _of_others(self._state)
        print(f"customers of others that changed at Amberflo: {changed} of {len(before)}")
        print(f"history rows of others: {rows - history[0]} more; traits: {traits == history[1]}")

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait(60)
        self._running.__exit__(None, None, None)


if __name__ == "__main__":
    main()
