"""Troubles of a real `syncer daemon`, in an order drawn from a seed.

While it receives, schedules every 2 to 4 seconds and delivers, Amberflo is down or takes no key,
the warehouse is gone, and its processes are killed. After each trouble all must be equal again, and
the log must have told of it once, and once that it is over.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx

from syncer.sandbox.faults import Faults

from .checks import Evidence
from .scenario import Scenario
from .world import API_KEY, CONFIG, World, now

WRITE_KEY = "write-key"
#: Seconds that anything may take until it is as it must be.
BOUND = 60.0
#: Seconds that a trouble lasts.
LASTS = 5.0

MORE = f"""\
[ops]
listen = "127.0.0.1:0"
[schedule]
every = "3s"
jitter = "1s"
[passthrough]
listen = "127.0.0.1:0"
write_keys = [{{ key = "{WRITE_KEY}", may = ["page", "track", "identify", "memberships"] }}]
"""
TROUBLES = (
    *("amberflo is down", "amberflo takes no key", "a wrong key in the config"),
    *("the warehouse is gone", "the worker is killed", "the run is killed", "the daemon is killed"),
)
#: What a path tells of a trouble, and that it is over.
_TOLD = re.compile(r"ERROR syncer: (customers|meters|calls|worker|queue|schedule|alerts): ")
_OVER = re.compile(r"INFO syncer: (customers|meters|calls|worker|queue|schedule|alerts): it works")


@dataclass
class Daemon:
    """A daemon in a place, with what befalls it."""

    world: World
    rng: Random
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    logs: list[Path] = field(default_factory=list)

    def play(self) -> Evidence:
        """All troubles, one after the other."""
        self._configure(API_KEY)
        self._start()
        try:
            self._until_equal("the start")
            for trouble in self.rng.sample(TROUBLES, len(TROUBLES)):
                self._during(trouble)
            self._stop()
        finally:
            self._end()
        remaining = [f"process {pid}" for pid in _beside(str(self._config))]
        evidence = self.world.evidence()
        evidence.left_processes += remaining
        return evidence

    def _during(self, trouble: str) -> None:
        """A trouble while Engage and the calls go on; then it is over."""
        said = self._said()
        with self._trouble(trouble):
            self.world.engage.evolve(2.0, 0.05)
            self.world.model.look(len(self.world.amberflo.writes))
            self._call()
        self._call()
        self._until_equal(trouble)
        if trouble.startswith("amberflo"):
            lines = lambda: self._said()[len(said) :]  # noqa: E731
            self._until(
                lambda: _count(_TOLD, lines()) == _count(_OVER, lines()), f"{trouble} is over"
            )
        self._check_said(trouble, self._said()[len(said) :])

    @contextmanager
    def _trouble(self, trouble: str) -> Iterator[None]:
        kind = "_" + trouble.replace(" ", "_")
        with contextmanager(getattr(self, kind))():
            yield

    def _amberflo_is_down(self) -> Iterator[None]:
        self.world.amberflo.faults = Faults.parse("drop_before=1")
        yield
        time.sleep(LASTS)
        self.world.amberflo.faults = Faults()

    def _amberflo_takes_no_key(self) -> Iterator[None]:
        self.world.amberflo._key = b"another"
        yield
        time.sleep(LASTS)
        self.world.amberflo._key = API_KEY.encode()

    def _a_wrong_key_in_the_config(self) -> Iterator[None]:
        self._configure("wrong")
        self._signal(signal.SIGHUP)
        yield
        time.sleep(LASTS)
        self._configure(API_KEY)
        self._signal(signal.SIGHUP)

    def _the_warehouse_is_gone(self) -> Iterator[None]:
        yield
        self.world.engage._engine.dispose()
        path = self.world.folder / "engage.db"
        path.rename(path.with_suffix(".away"))
        time.sleep(LASTS)
        path.with_suffix(".away").rename(path)

    def _the_worker_is_killed(self) -> Iterator[None]:
        yield
        self._kill_beside("worker")
        # The daemon says so and ends; who watches over it starts it again.
        assert self.process is not None
        if self.process.wait(BOUND) != 1:
            self.world.notes.append(f"the daemon ended with {self.process.returncode}, not 1")
        self._start()

    def _the_run_is_killed(self) -> Iterator[None]:
        self.world.amberflo.faults = Faults.parse("slow=1,slow_seconds=0.1")
        yield
        self._kill_beside("run")
        self.world.amberflo.faults = Faults()

    def _the_daemon_is_killed(self) -> Iterator[None]:
        yield
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._until(lambda: not _beside(str(self._config)), "the processes beside end")
        self._start()

    # The process

    @property
    def _config(self) -> Path:
        return self.world.folder / "daemon.toml"

    def _configure(self, key: str) -> None:
        world = self.world
        values = {
            "key": key,
            "amberflo": world.amberflo_url,
            "rate": 0,
            "concurrency": 8,
            "timeout": "2s",
            "patience": "2s",
            # Nobody decides on holds here, so nothing is held.
            "max_exits": 1.0,
            "engage": world.folder / "engage.db",
            "state": world.state_url,
        }
        self._config.write_text(CONFIG.format(**values) + MORE)

    def _start(self) -> None:
        log = self.world.folder / "logs" / f"daemon-{len(self.logs)}.log"
        self.logs.append(log)
        command = [sys.executable, "-m", "syncer", "daemon", "--config", str(self._config)]
        environment = {**os.environ, "SYNCER_CONFIG": str(self._config)}
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment
            )

        def listening() -> bool:
            match = re.search(r"receiving on (http://\S+)", log.read_text())
            self.url = match[1] if match else ""
            return bool(match)

        self._until(listening, "the daemon listens")

    def _stop(self) -> None:
        """SIGTERM: it drains, and ends well within 20 seconds."""
        assert self.process is not None
        self.process.terminate()
        try:
            status = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.world.notes.append("the daemon does not end within 20 s of SIGTERM")
            return
        if status:
            self.world.notes.append(f"the daemon ended with {status} after SIGTERM")

    def _end(self) -> None:
        """Nothing stays behind, however it went."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        end = time.monotonic() + 20
        while _beside(str(self._config)) and time.monotonic() < end:
            time.sleep(0.1)

    def _signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def _kill_beside(self, name: str) -> None:
        def killed() -> bool:
            for pid, command in _beside(str(self._config)).items():
                if command[-1:] == [name] or name in command[3:5]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        return True
            return False

        self._until(killed, f"there is a {name} to kill")

    # What is sent, waited for and looked at

    def _call(self) -> None:
        """Some calls, each until it is taken."""
        world = self.world
        for event in world.model.calls(self.rng, 5, now()):
            position = len(world.amberflo.writes)

            def taken(event: dict[str, object] = event) -> bool:
                body = {"writeKey": WRITE_KEY, "batch": [event]}
                with suppress(httpx.TransportError):
                    answer = httpx.post(f"{self.url}/v1/batch", json=body, trust_env=False)
                    return answer.status_code == 200
                return False

            self._until(taken, "a call is taken")
            world.model.accepted([event], position)

    def _until_equal(self, what: str) -> None:
        """Until a run has seen what Engage says, and Amberflo holds it."""
        world, began = self.world, now()

        def equal() -> bool:
            runs = world.tables("run")["run"]
            seen = any(run["committed_at"] and run["started_at"] >= began for run in runs)
            evidence = world.evidence()
            missing = evidence.meters.keys() - {record["uniqueId"] for record in evidence.records}
            return seen and not missing and _json(evidence.holds) == _json(evidence.expected)

        self._until(equal, f"all is equal after {what}")
        world.model.observe()

    def _until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + BOUND
        while not true():
            if time.monotonic() > end:
                raise Waited(f"waited {BOUND:.0f} s in vain until {what}")
            time.sleep(0.05)

    def _said(self) -> list[str]:
        return [line for log in self.logs for line in log.read_text().splitlines()]

    def _check_said(self, trouble: str, lines: list[str]) -> None:
        """Each path told of its trouble once, and again only when it had been over."""
        told, over = _count(_TOLD, lines), _count(_OVER, lines)
        for path, times in told.items():
            if times > over[path] + 1:
                self.world.notes.append(f"{path} told {times} times while {trouble}: {lines}")
        if any("Traceback" in line for line in lines):
            self.world.notes.append(f"something broke while {trouble}: {lines}")


class Waited(Exception):
    """What must come does not."""


def play(world: World, seed: int) -> Evidence:
    """The troubles of a seed in this place."""
    daemon = Daemon(world, Random(f"daemon/{seed}"))
    world.model.look(0)
    try:
        return daemon.play()
    except Waited as waited:
        world.notes.append(f"{waited}: {daemon._said()[-20:]}")
        return world.evidence()


def draw(seed: int, *, postgres: bool = False) -> Scenario:
    """Where the troubles of a seed befall."""
    rng = Random(f"daemon/{seed}")
    return Scenario(seed, postgres, rng.randint(30, 80), 4, 8, 0, "create", 0, ())


def _count(pattern: re.Pattern[str], lines: list[str]) -> Counter[str]:
    """How often each path said so."""
    return Counter(match[1] for line in lines if (match := pattern.search(line)))


def _beside(config: str) -> dict[int, list[str]]:
    """The processes of `python -m syncer.daemon` of the daemon with this config, which they have in
    their environment: their commands by number."""
    by_pid = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if (
                not entry.name.isdecimal()
                or config.encode() not in (entry / "environ").read_bytes()
            ):
                continue
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            if "syncer.daemon" in command:
                by_pid[int(entry.name)] = [part for part in command if part]
    return by_pid


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True)
