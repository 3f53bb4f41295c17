"""One receiver for all SDKs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon, daemon
from tests.support.installation import installed
from tests.support.processes import free_port


@pytest.fixture(scope="package")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    address = f"127.0.0.1:{free_port()}"  # known before, so that /settings can tell it
    with (
        installed(tmp_path_factory.mktemp("sdks")) as installation,
        daemon(installation, listen=address, public_url=f"http://{address}") as service,
    ):
        yield service
