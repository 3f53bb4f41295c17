"""One daemon for all tests of a file that need no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.receiver.helpers import PAYLOADS, keeps_no_secret
from tests.support.daemon import Daemon, daemon, know
from tests.support.installation import installed
from tests.support.warehouse import Warehouse


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for all tests that need no other; each uses ids of its own."""
    with installed(tmp_path_factory.mktemp("receiver")) as installation:
        Warehouse(installation.folder / "engage.db").close()
        engage = [name for name in PAYLOADS if name.startswith("engage_")]
        personas = [PAYLOADS[name].get("context", {}).get("personas", {}) for name in engage]
        keys = {persona["computation_key"] for persona in personas if "computation_key" in persona}
        know(f"sqlite:///{installation.folder / 'syncer.db'}", *sorted(keys))
        with daemon(installation, public_url="https://calls.example.com/segment") as service:
            yield service
            keeps_no_secret(service)
