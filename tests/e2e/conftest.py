"""A whole installation in a folder: both stand-ins, a config, and the `syncer` program."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncer.amberflo.record import at_amberflo
from syncer.cli import main
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox
from tests.support.warehouse import Warehouse

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

    def configure(
        self,
        *,
        source: str | None = None,
        state: str | None = None,
        engage: str = 'computed_traits = ["total_revenue_*"]',
        more: str = "",
        **top: Any,
    ) -> None:
        """Write the config. Keyword arguments go to [amberflo], `engage` is what [engage] says,
        `more` stands at the end."""
        amberflo = {
            "api_key": API_KEY,
            "customers_url": f"{self.amberflo_url}/customers",
            "ingest_url": f"{self.amberflo_url}/ingest",
            "rate": 0,
            **top,
        }
        lines = [f"{key} = {orjson.dumps(value).decode()}" for key, value in amberflo.items()]
        state = state or f"sqlite:///{self.folder / 'syncer.db'}"
        self.config.write_text(
            '[ops]\nlisten = "127.0.0.1:0"\n[amberflo]\n'
            + "\n".join(lines)
            + f"\n[engage]\n{engage}\n"
            + f'[engage.profiles_sync]\nurl = "{source or self.source_url}"\n'
            + f'[state]\nurl = "{state}"\n{more}',
            encoding="utf-8",
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "syncer", *arguments, "--config", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )

    def run(
        self, *arguments: str, exit_code: int | tuple[int, ...] = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its exit status must be as said, or one of those."""
        out, err = io.StringIO(), io.StringIO()
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        argv, sys.argv = sys.argv, ["syncer", *arguments, "--config", str(self.config)]
        try:
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exited:
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
        found: dict[str, int] = self.amberflo.stats()["puts"]
        return found

    def values(self, name: str) -> dict[str, Any]:
        """What each customer of Amberflo has under the name of a trait, where it has anything."""
        return {
            customer_id: record["traits"][name]
            for customer_id, record in sorted(self.amberflo.customers.items())
            if name in record.get("traits", {})
        }

    def members(self, name: str) -> set[str]:
        """Whom Amberflo takes for a member of an audience."""
        return {one for one, value in self.values(name).items() if value is True}

    def holds(self) -> dict[str, dict[str, Any]]:
        """What Amberflo holds: name, email and traits by customer id."""
        fields = ("customerName", "customerEmail", "traits")
        return {
            customer_id: {field: record.get(field) for field in fields}
            for customer_id, record in self.amberflo.customers.items()
        }


def expected_records(engage: EngageSandbox) -> dict[str, dict[str, Any]]:
    """What Amberflo must hold, from the stand-in's own model (not from its database)."""
    return {
        one.customer_id: {
            "customerName": one.name or one.customer_id,
            "customerEmail": one.email,
            "traits": {name: at_amberflo(value) for name, value in one.traits.items()},
        }
        for one in engage.expected()
    }


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    amberflo = AmberfloSandbox(API_KEY)
    with running(amberflo) as url:
        found = Installation(tmp_path, amberflo, url)
        found.configure()
        yield found


@pytest.fixture
def engage(installation: Installation) -> Iterator[EngageSandbox]:
    """An empty stand-in for Engage on the installation's source."""
    found = EngageSandbox(
        installation.source_url, seed=7, clock=datetime.now(UTC) - timedelta(days=30)
    )
    yield found
    found.close()


@pytest.fixture
def warehouse(installation: Installation) -> Iterator[Warehouse]:
    """An empty warehouse on the installation's source, row by row under control."""
    found = Warehouse(installation.folder / "engage.db")
    yield found
    found.close()
