"""The stand-ins of Segment and Amberflo on loopback, and a config that points at them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from syncer.errors import SyncerError
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox, Evolution
from syncer.sandbox.faults import Faults
from syncer.sandbox.public_api import PublicApiSandbox, listed_by

#: How far in the past the Engage stand-in starts, so that its later changes are not in the future.
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

[engage.public_api]
token = "{token}"
space_id = "{space_id}"
url = "{public_api}"

[state]
url = "sqlite:///{state}"

[passthrough]
listen = "127.0.0.1:0"
write_keys = ["{write_key}"]

[ops]
listen = "127.0.0.1:0"
"""


@dataclass(frozen=True)
class Environment:
    """The running stand-ins; `config` is the text of a TOML file for `syncer --config`."""

    amberflo: AmberfloSandbox
    amberflo_url: str
    engage: EngageSandbox
    public_api: PublicApiSandbox
    config: str
    write_key: str

    def evolve(self, hours: float = 2.5, fraction: float = 0.01) -> Evolution:
        """Let time pass at Engage, and list the new sizes in the Public API."""
        evolution = self.engage.evolve(hours=hours, fraction=fraction)
        self.public_api.listed = listed_by(self.engage)
        return evolution


@contextmanager
def environment(
    folder: Path,
    *,
    users: int,
    audiences: int,
    seed: int = 0,
    faults: Faults | None = None,
    port: int = 0,
) -> Iterator[Environment]:
    """Fill Engage's database in `folder`, and serve its Public API and Amberflo for the block."""
    api_key, write_key, token, space_id = (
        f"sandbox-{kind}-{secrets.token_hex(8)}" for kind in ("api", "write", "token", "space")
    )
    engage_file = folder / "engage.db"
    engage = EngageSandbox(
        f"sqlite:///{engage_file}", seed=seed, clock=datetime.now(UTC) - STARTS_BEFORE
    )
    amberflo = AmberfloSandbox(api_key, faults=faults)
    try:
        engage.fill(users, audiences)
        public_api = PublicApiSandbox(token, space_id, listed=listed_by(engage))
        with running(public_api) as public_api_url, _serving(amberflo, port) as url:
            config = CONFIG.format(
                api_key=api_key,
                write_key=write_key,
                amberflo=url,
                engage=engage_file.absolute(),
                token=token,
                space_id=space_id,
                public_api=public_api_url,
                state=(folder / "syncer.db").absolute(),
            )
            yield Environment(amberflo, url, engage, public_api, config, write_key)
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
