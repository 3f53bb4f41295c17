"""The stage: both stand-ins running on loopback, and a config that points at them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from syncer.errors import SyncerError
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.faults import Faults

#: The Engage stand-in starts so far back, so that what it lets happen is past, not future.
STARTS_BEFORE = timedelta(days=30)

CONFIG = """\
# A sandbox on this machine: nothing here leaves it.
[amberflo]
api_key = "{api_key}"
customers_url = "{amberflo}/customers"
ingest_url = "{amberflo}/ingest"
rate = 0

[engage]
source = "profiles_sync"
audiences = ["*"]
computed_traits = ["total_revenue_*"]

[engage.profiles_sync]
url = "sqlite:///{engage}"

[state]
url = "sqlite:///{state}"

[passthrough]
listen = "127.0.0.1:0"
write_keys = ["{write_key}"]
"""


@dataclass(frozen=True)
class Stage:
    """The running stand-ins; `config` is the text of a TOML file for `syncer --config`."""

    amberflo: AmberfloSandbox
    amberflo_url: str
    engage: EngageSandbox
    config: str
    write_key: str


@contextmanager
def stage(
    folder: Path,
    *,
    users: int,
    audiences: int,
    seed: int = 0,
    faults: Faults | None = None,
    port: int = 0,
) -> Iterator[Stage]:
    """Fill Engage's database in `folder` and serve Amberflo, for the block."""
    api_key, write_key = (f"sandbox-{kind}-{secrets.token_hex(8)}" for kind in ("api", "write"))
    engage_file = folder / "engage.db"
    engage = EngageSandbox(
        f"sqlite:///{engage_file}", seed=seed, clock=datetime.now(UTC) - STARTS_BEFORE
    )
    amberflo = AmberfloSandbox(api_key, faults=faults)
    try:
        engage.fill(users, audiences)
        with _serving(amberflo, port) as url:
            config = CONFIG.format(
                api_key=api_key,
                write_key=write_key,
                amberflo=url,
                engage=engage_file.absolute(),
                state=(folder / "syncer.db").absolute(),
            )
            yield Stage(amberflo, url, engage, config, write_key)
    finally:
        engage.close()


@contextmanager
def _serving(amberflo: AmberfloSandbox, port: int) -> Iterator[str]:
    server = running(amberflo, port=port)
    try:
        url = server.__enter__()
    except OSError as error:
        raise SyncerError(
            f"the sandbox cannot listen on port {port}: {error.strerror}; free it or name another "
            "with --port"
        ) from None
    try:
        yield url
    finally:
        server.__exit__(None, None, None)
