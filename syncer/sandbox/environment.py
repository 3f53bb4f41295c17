"""The stand-ins of Segment and Amberflo on loopback, and a config that points at them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from syncer.errors import SyncerError
from syncer.sandbox.amberflo import AmberfloSandbox, running
from syncer.sandbox.engage import EngageSandbox, Evolution
from syncer.sandbox.faults import Faults
from syncer.sandbox.profile_api import ProfileApiSandbox, profiles_of
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
source = "{source}"
audiences = ["*"]
computed_traits = ["total_revenue_*"]

{section}
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

#: The section of each source that the sandbox serves.
SECTIONS = {
    "profiles_sync": """\
[engage.profiles_sync]
url = "sqlite:///{engage}"
""",
    "profile_api": """\
[engage.profile_api]
token = "{token}"
space_id = "{space_id}"
url = "{profile_api}"
ids_file = "{ids}"
""",
}


@dataclass(frozen=True)
class Environment:
    """The running stand-ins; `config` is the text of a TOML file for `syncer --config`."""

    amberflo: AmberfloSandbox
    amberflo_url: str
    engage: EngageSandbox
    public_api: PublicApiSandbox
    config: str
    write_key: str
    #: the Profile API, if it is the source, and the file of the ids that it knows
    profile_api: ProfileApiSandbox | None
    ids: Path

    def evolve(self, hours: float = 2.5, fraction: float = 0.01) -> Evolution:
        """Let time pass at Engage, and show it in its APIs."""
        evolution = self.engage.evolve(hours=hours, fraction=fraction)
        self.publish()
        return evolution

    def publish(self) -> None:
        """Show in Engage's APIs what Engage has now."""
        self.public_api.listed = listed_by(self.engage)
        if self.profile_api is not None:
            self.profile_api.profiles = profiles_of(self.engage)
            ids = [f"{customer_id}\n" for customer_id in self.engage.customer_ids()]
            self.ids.write_text("".join(ids), encoding="utf-8")


@contextmanager
def environment(
    folder: Path,
    *,
    users: int,
    audiences: int,
    seed: int = 0,
    faults: Faults | None = None,
    port: int = 0,
    source: str = "profiles_sync",
) -> Iterator[Environment]:
    """Fill Engage's database in `folder`, and serve its APIs and Amberflo for the block.

    `source` is the one that the config uses.
    """
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
        public_api = PublicApiSandbox(token, space_id)
        profile_api = ProfileApiSandbox(token, space_id) if source == "profile_api" else None
        ids = folder / "customer-ids.txt"
        with (
            running(public_api) as public_api_url,
            nullcontext("") if profile_api is None else running(profile_api) as profile_api_url,
            _serving(amberflo, port) as url,
        ):
            places = {
                "engage": engage_file.absolute(),
                "token": token,
                "space_id": space_id,
                "public_api": public_api_url,
                "profile_api": profile_api_url,
                "ids": ids.absolute(),
            }
            config = CONFIG.format(
                source=source,
                section=SECTIONS[source].format(**places),
                api_key=api_key,
                write_key=write_key,
                amberflo=url,
                state=(folder / "syncer.db").absolute(),
                **places,
            )
            environment = Environment(
                amberflo, url, engage, public_api, config, write_key, profile_api, ids
            )
            environment.publish()
            yield environment
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
