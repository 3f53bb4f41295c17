"""What several daemons on one PostgreSQL bring, and what they cost it.

    python -m benchmarks.daemons [--daemons 1 2 4] [--calls 40000] [--customers 2000] [--rate 100]
                                 [--idle 10]

So many real daemons, each with its worker, on a PostgreSQL of its own (server.py), and an Amberflo
that costs little and keeps a ledger (ledger.py). Each number of daemons in turn

- idles;
- takes track calls, 100 a request over 16 connections, and brings them to Amberflo;
- delivers the customers of a run at `amberflo.rate`;
- and those of another one without a rate, where answers take 0.1 s and 8 requests are under way.

Prints what came through, what the database and the daemons took for it, and for each part of the
program what it asked the database. Ends with an error where a customer or a record came twice or
not at all, or over 10 seconds more requests than a tenth above the rate. The load, the daemons, the
database and Amberflo share the machine: throughput there says less than the seconds of a processor.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemons import ledger
from benchmarks.daemons.fleet import KEY, Fleet, fleet
from benchmarks.daemons.server import Asked, Server, server
from benchmarks.receiver import event, request
from benchmarks.target import target
from syncer.sandbox.engage import EngageSandbox
from tests.support import postgres
from tests.support.processes import wait_until

AUDIENCES, EACH, CONNECTIONS = 10, 100, 16
#: Answers that take so many seconds, and requests under way, where no rate is the bound.
DELAY, UNDER_WAY = 0.1, 8
#: The words in what each part of the program asks the database; the first part that fits.
PARTS = {
    "taking calls": r"INSERT INTO inbox",
    "processing calls": r"\binbox\b|(INSERT INTO|DELETE FROM) event|early_|event\.id >",
    "delivering records": r"\bevent\b",
    "counting": r"\bcounter\b",
    "who lives": r"\bworker\b|pg_locks|try_advisory|tcp_keepalives",
    "a run": r"INSERT INTO|^COPY|\btrait\b|\bseal\b",
    "a run's progress": r"UPDATE run",
    "delivering customers": r"\bcustomer\b|UPDATE change",
    "transactions": r"^(BEGIN|COMMIT|ROLLBACK|SELECT \$?1$)|advisory_xact|set_config",
    "the rest": r"",
}


@dataclass
class Phase:
    """What was seen: `number` things in `seconds`, the seconds of a processor that daemons took."""

    number: int
    seconds: float
    daemons: float
    asked: Asked
    note: str = ""


async def send(ports: Sequence[int], calls: int) -> None:
    """Send track calls in batches, each once, over connections to all daemons in turn."""
    numbers = iter(range(0, calls, EACH))

    async def connection(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for first in numbers:
            batch = [event(first + it) for it in range(EACH)]
            writer.write(request("/v1/batch", {"writeKey": KEY, "batch": batch}))
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            await reader.readuntil(b"}")
        writer.close()

    await asyncio.gather(*(connection(ports[it % len(ports)]) for it in range(CONNECTIONS)))


@dataclass
class Bench:
    """The places of all phases with one number of daemons."""

    folder: Path
    running: Server
    daemons: int
    options: argparse.Namespace

    def phases(self) -> Iterator[tuple[str, Phase]]:
        """Yield what was seen of each phase by its name."""
        rate, customers = self.options.rate, self.options.customers
        with self._fleet(rate, 64, 0.0) as (members, url, amberflo, engage):
            yield "idle", self._idle(members, url)
            yield "calls", self._calls(members, url, amberflo)
            phase, moments = self._customers(members, url, amberflo, engage)
            most = ledger.most_in(moments, 10) / 10
            phase.note = f"at most {most:.0f} requests/s in any 10 s, of {rate:g}"
            assert most <= 1.1 * rate, phase.note
            yield f"{customers:,} customers at {rate:g}/s", phase
        with self._fleet(0, UNDER_WAY, DELAY) as (members, url, amberflo, engage):
            phase, moments = self._customers(members, url, amberflo, engage)
            phase.note = f"{len(moments) / phase.seconds:.0f} requests/s"
            yield f"{customers:,} customers without a rate", phase

    @contextmanager
    def _fleet(
        self, rate: float, under_way: int, delay: float
    ) -> Iterator[tuple[Fleet, str, str, EngageSandbox]]:
        """Start daemons on a fresh state, and wait for the end of their first run."""
        source = f"sqlite:///{self.folder}/engage.db"
        with (
            target(delay, "benchmarks.daemons.ledger") as amberflo,
            postgres.database(self.running.url) as url,
            closing(EngageSandbox(source)) as engage,
        ):
            engage.fill(1, AUDIENCES)
            settings = {"rate": rate, "concurrency": under_way, "source": source}
            with fleet(self.folder, self.daemons, state=url, amberflo=amberflo, **settings) as it:
                it.sync()  # it waits for the first run of the daemons
                yield it, url, amberflo, engage

    def _idle(self, members: Fleet, url: str) -> Phase:
        with self.running.watched(url) as asked:
            before = members.processor
            time.sleep(self.options.idle)
            took = members.processor - before
        return Phase(round(asked.seconds), asked.seconds, took, asked)

    def _calls(self, members: Fleet, url: str, amberflo: str) -> Phase:
        calls: int = self.options.calls
        ledger.read(amberflo)
        with self.running.watched(url) as asked:
            before, began = members.processor, time.monotonic()
            asyncio.run(send(members.ports, calls))
            taken = time.monotonic() - began
            wait_until(lambda: ledger.total(amberflo) >= calls, 300, what="the last record")
            seconds, took = time.monotonic() - began, members.processor - before
            time.sleep(1)  # what became of the last ones is written
        assert ledger.read(amberflo)["records"] == [[1, calls]]
        return Phase(calls, seconds, took, asked, f"taken in at {calls / taken:,.0f}/s")

    def _customers(
        self, members: Fleet, url: str, amberflo: str, engage: EngageSandbox
    ) -> tuple[Phase, list[float]]:
        """Make a run of many new customers; return also the moments of its requests."""
        engage.fill(self.options.customers, AUDIENCES)
        ledger.read(amberflo)
        with self.running.watched(url) as asked:
            before = members.processor
            took = members.sync() + members.processor - before
        came = ledger.read(amberflo)
        ((times, customers),) = came["customers"]
        assert times == 1
        moments = came["moments"][4:]  # the first ones look at Amberflo, before the commit
        return Phase(customers, moments[-1] - moments[0], took, asked), moments


def part_of(statement: str) -> str:
    """Return the part of the program that asks a statement."""
    return next(part for part, words in PARTS.items() if re.search(words, statement))


def costs(phase: Phase) -> str:
    """Return a line of what a phase took, for each thing."""
    asked, number = phase.asked, phase.number
    locks = sum(it for event, it in asked.waited.items() if event.startswith("Lock "))
    disk = sum(it for event, it in asked.waited.items() if "WAL" in event)
    statements = sum(row.calls for row in asked.statements)
    return (
        f"{number / phase.seconds:,.0f} | {statements / number:,.2f} | "
        f"{asked.processor / number * 1000:.3f} | {phase.daemons / number * 1000:.3f} | "
        f"{asked.wal / number:,.0f} | {asked.grown / number:,.0f} | "
        f"{locks / number * 1000:.2f} | {disk / number * 1000:.2f} | {phase.note}"
    )


def by_part(phase: Phase) -> Iterator[str]:
    """Yield a line for each part of the program that asked something, for each thing."""
    statements, seconds, wal = Counter[str](), defaultdict[str, float](float), Counter[str]()
    for row in phase.asked.statements:
        part = part_of(row.query)
        statements[part] += row.calls
        seconds[part] += row.seconds
        wal[part] += int(row.wal_bytes)
    for part in PARTS:
        if statements[part]:
            each = statements[part] / phase.number, seconds[part] / phase.number * 1000
            yield f"{part} | {each[0]:,.3f} | {each[1]:.3f} | {wal[part] / phase.number:,.0f}"


def table(columns: Iterable[str], lines: Iterable[str]) -> None:
    """Print a table."""
    columns = list(columns)
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for line in lines:
        print(f"| {line} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.daemons")
    parser.add_argument("--daemons", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--calls", type=int, default=40_000)
    parser.add_argument("--customers", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--idle", type=float, default=10.0)
    options = parser.parse_args()
    seen: dict[str, dict[int, Phase]] = defaultdict(dict)
    with server() as running:
        for daemons in options.daemons:
            with tempfile.TemporaryDirectory() as name:
                for phase_name, phase in Bench(Path(name), running, daemons, options).phases():
                    seen[phase_name][daemons] = phase
                    print(f"{daemons}, {phase_name}: {costs(phase)}", flush=True)
    print()
    for phase_name, phases in seen.items():
        print(f"{phase_name}, for each{' second' if phase_name == 'idle' else ''}:\n")
        columns = ("daemons", "a second", "statements", "ms of the database", "ms of the daemons")
        more = ("bytes of WAL", "bytes larger", "ms locks", "ms the disk", "")
        table((*columns, *more), (f"{it} | {costs(phase)}" for it, phase in phases.items()))
        for daemons in sorted({min(phases), max(phases)}):
            print(f"with {daemons}:\n")
            table(("part", "statements", "ms until answered", "WAL"), by_part(phases[daemons]))


if __name__ == "__main__":
    main()
