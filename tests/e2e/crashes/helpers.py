"""Real processes that die at real moments, and what Amberflo holds then."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation

WORKERS = 8
#: So a customer takes 0.1 s (a read and a write), and eight go side by side.
SLOW = "slow=1,slow_seconds=0.05"

Traits = dict[str, dict[str, Any]]


class State:
    """The state database past the product, also before it is there."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        self._path = self._engine.url.database if url.startswith("sqlite") else None

    def close(self) -> None:
        self._engine.dispose()

    def rows(self, statement: str) -> list[dict[str, Any]]:
        if self._path is not None and not Path(self._path).exists():
            return []
        try:
            with self._engine.connect() as connection:
                return [dict(row) for row in connection.execute(text(statement)).mappings()]
        except DBAPIError as error:
            if "no such table" in str(error.orig) or "does not exist" in str(error.orig):
                return []
            raise

    def runs(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM run ORDER BY id")

    def backlog(self) -> int:
        return len(self.rows("SELECT 1 FROM customer WHERE due_at IS NOT NULL"))


def traits_of(engage: EngageSandbox) -> Traits:
    return {customer.customer_id: customer.traits for customer in engage.expected()}


def differences(before: Traits, after: Traits) -> set[tuple[str, str, str, str]]:
    """(customer, trait, before, after) of each trait that differs, values as JSON."""
    return {
        (customer, trait, json.dumps(was), json.dumps(now))
        for customer, traits in after.items()
        for trait in traits.keys() | before.get(customer, {}).keys()
        if (was := before.get(customer, {}).get(trait)) != (now := traits.get(trait))
        or type(was) is not type(now)
    }


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Nothing of a test stays behind."""
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def wait_until(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until it is so or the process ended; a process that does neither fails the test."""
    end = time.monotonic() + 30
    while not true() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def writes(installation: Installation) -> int:
    return int(installation.amberflo.stats()["requests"].get("PUT /customers", 0))


def no_traceback(said: str) -> None:
    assert "Traceback" not in said, said
