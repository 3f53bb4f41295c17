"""A lock that another process holds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import processes

_HOLD = """
import sys
from state.db.database import Database
from state.db.locks import lock
database = Database.open(sys.argv[1])
with lock(database, sys.argv[2]):
    print("held", flush=True)
    sys.stdin.readline()
database.close()
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def held_elsewhere(url: str, name: str = "run") -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of this name until it is told to go on or is killed."""
    with processes.start(
        "-c", _HOLD, url, name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()
