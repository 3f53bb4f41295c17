"""Several daemons as they run: each a process with its worker, all on one database."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemons.server import processor
from tests.support.processes import wait_until

KEY = "benchmark"
CONFIG = """\
[amberflo]
api_key = "{key}"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
rate = {rate}
concurrency = {concurrency}
[engage.profiles_sync]
url = "{source}"
[guard]
max_exits = 1
small_max_exits = 1
[state]
url = "{state}"
[ops]
listen = "127.0.0.1:0"
[passthrough]
listen = "127.0.0.1:0"
write_keys = ["{key}"]
queue_limit = 100000000
"""


@dataclass
class Fleet:
    """Daemons with one config: their processes, and the ports of their receivers."""

    config: Path
    processes: list[int]
    ports: list[int]

    @property
    def processor(self) -> float:
        """The seconds of a processor that all of them took so far."""
        return sum(map(processor, self.processes))

    def sync(self) -> float:
        """Make a run that compares everything, in a process beside them.

        Return its seconds of a processor.
        """
        before = os.times()
        program = [sys.executable, "-m", "syncer", "sync", "--full", "--config", str(self.config)]
        log = self.config.with_name("sync.log")
        with log.open("wb") as file:
            done = subprocess.run(program, check=False, stdout=file, stderr=file)
        assert done.returncode == 0, log.read_text()
        after = os.times()
        return (
            after.children_user
            + after.children_system
            - (before.children_user + before.children_system)
        )


@contextmanager
def fleet(folder: Path, daemons: int, **settings: object) -> Iterator[Fleet]:
    """Start so many daemons, and wait until all are ready; `settings` fill in `CONFIG`."""
    config = folder / "config.toml"
    config.write_text(CONFIG.format(key=KEY, **settings))
    with ExitStack() as stack:
        members = [stack.enter_context(_daemon(config, number)) for number in range(daemons)]
        processes, ports = map(list, zip(*members, strict=True))
        yield Fleet(config, processes, ports)


@contextmanager
def _daemon(config: Path, number: int) -> Iterator[tuple[int, int]]:
    """Run a daemon; yield its process and the port of its receiver."""
    log = config.with_name(f"daemon-{number}.log")
    program = [sys.executable, "-m", "syncer", "daemon", "--config", str(config)]
    with log.open("wb") as file:
        process = subprocess.Popen(program, stderr=file)
    try:
        ops = _address(process, log, "health and metrics are at")
        url = _address(process, log, "receiving on")
        wait_until(lambda: _is_ready(ops), 60, what="a daemon that is ready")
        yield process.pid, int(url.rpartition(":")[2])
    finally:
        process.terminate()
        process.wait()
        assert "Traceback" not in log.read_text(), log.read_text()


def _address(process: subprocess.Popen[bytes], log: Path, what: str) -> str:
    address = re.compile(rf'{what} (http://[^\s"]+)')

    def said() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return address.search(log.read_text())

    wait_until(said, 60, what=what)
    match = said()
    assert match is not None
    return match[1]


def _is_ready(ops: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{ops}/readyz").status == 200)
    except OSError:
        return False
