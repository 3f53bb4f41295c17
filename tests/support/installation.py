"""A whole installation in a folder: both stand-ins, a config, and the `syncer` program."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncer.amberflo.record import at_amberflo
from syncer.cli import main
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox
from tests.support import garbage, processes

API_KEY = "the-key"


@dataclass
class Installation:
    """`run` calls the program as the shell would, in this process; `start` makes a process."""

    folder: Path
    amberflo: AmberfloSandbox
    amberflo_url: str

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def source_url(self) -> str:
        return f"sqlite:///{self.folder / 'engage.db'}"

    @property
    def state_url(self) -> str:
        return f"sqlite:///{self.folder / 'syncer.db'}"

    def configure(
        self,
        *,
        source: str | None = None,
        state: str | None = None,
        engage: str = 'computed_traits = ["total_revenue_*"]',
        more: str = "",
        profiles_sync: str = "",
        **amberflo: Any,
    ) -> None:
        """Write the config. `source` and `state` are URLs, `engage` is what [engage] says, and
        `profiles_sync` what its section says besides; `more` stands at the end; the other arguments
        go to [amberflo]."""
        settings = {
            "api_key": API_KEY,
            "customers_url": f"{self.amberflo_url}/customers",
            "ingest_url": f"{self.amberflo_url}/ingest",
            "rate": 0,
            **amberflo,
        }
        lines = [f"{key} = {toml(value)}" for key, value in settings.items()]
        self.config.write_text(
            '[ops]\nlisten = "127.0.0.1:0"\n[amberflo]\n'
            + "\n".join(lines)
            + f"\n[engage]\n{engage}\n"
            + f'[engage.profiles_sync]\nurl = "{source or self.source_url}"\n{profiles_sync}\n'
            + f'[state]\nurl = "{state or self.state_url}"\n{more}',
            encoding="utf-8",
        )

    def start(self, *arguments: str, program: str = "syncer") -> subprocess.Popen[str]:
        """Start a command in a process of its own, with pipes for what it says."""
        return processes.start(
            *("-m", program, *arguments, "--config", self.config),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )

    def run(
        self, *arguments: str, exit_code: int | tuple[int, ...] = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. Its exit status must be `exit_code`, or one of those."""
        out, err = io.StringIO(), io.StringIO()
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        argv, sys.argv = sys.argv, ["syncer", *arguments, "--config", str(self.config)]
        streams = redirect_stdout(out), redirect_stderr(err)
        try:
            with streams[0], streams[1], garbage.unfrozen(), pytest.raises(SystemExit) as exited:
                main()
        finally:
            sys.argv = argv
            for number, handler in kept.items():
                signal.signal(number, handler)
        said = f"exit {exited.value.code}\n{out.getvalue()}\n{err.getvalue()}"
        code = exited.value.code
        good = exit_code if isinstance(exit_code, tuple) else (exit_code,)
        assert isinstance(code, int), said
        assert code in good, said
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str, exit_code: int | tuple[int, ...] = 0) -> Any:
        """The one JSON document that a command prints."""
        return orjson.loads(self.run(*arguments, "--json", exit_code=exit_code).stdout)

    def puts(self) -> dict[str, int]:
        """How often each customer was written since the last `reset_stats`."""
        puts: dict[str, int] = self.amberflo.stats()["puts"]
        return puts

    def customer_requests(self) -> int:
        """How many requests about customers Amberflo got since the last `reset_stats`."""
        requests: dict[str, int] = self.amberflo.stats()["requests"]
        return sum(number for route, number in requests.items() if "/customers" in route)

    def values(self, name: str) -> dict[str, Any]:
        """What each customer of Amberflo has under the name of a trait, where it has anything."""
        return {
            customer_id: record["traits"][name]
            for customer_id, record in sorted(self.amberflo.customers.items())
            if name in record.get("traits", {})
        }

    def members(self, name: str) -> set[str]:
        """Whom Amberflo takes for a member of an audience."""
        return {customer_id for customer_id, value in self.values(name).items() if value is True}

    def holds(self) -> dict[str, dict[str, Any]]:
        """What Amberflo holds: name, email and traits by customer id."""
        fields = ("customerName", "customerEmail", "traits")
        return {
            customer_id: {field: record.get(field) for field in fields}
            for customer_id, record in self.amberflo.customers.items()
        }


@contextmanager
def installed(folder: Path, **options: Any) -> Iterator[Installation]:
    """An installation in a folder; `options` go to the stand-in of Amberflo."""
    amberflo = AmberfloSandbox(API_KEY, **options)
    with running(amberflo) as url:
        installation = Installation(folder, amberflo, url)
        installation.configure()
        yield installation


def expected_records(engage: EngageSandbox) -> dict[str, dict[str, Any]]:
    """What Amberflo must hold, from the stand-in's own model (not from its database)."""
    return {
        customer.customer_id: {
            "customerName": customer.name or customer.customer_id,
            "customerEmail": customer.email,
            "traits": {name: at_amberflo(value) for name, value in customer.traits.items()},
        }
        for customer in engage.expected()
    }


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {toml(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    return orjson.dumps(value).decode()
