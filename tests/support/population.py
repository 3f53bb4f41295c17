"""One population of Engage, and each way by which the program may read it.

A new source gets a function in `WAYS`: tests/e2e/sources/test_same_population.py then runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.profile_api import ProfileApiSandbox, profiles_of, running


@dataclass(frozen=True)
class Way:
    """What the config says after `[engage]` and as a section; `publish` shows what Engage has."""

    section: str
    publish: Callable[[], None] = lambda: None


def profiles_sync(engage: EngageSandbox, folder: Path, stack: ExitStack) -> Way:
    """The tables that the sandbox writes: the installation names them by itself."""
    return Way("")


def profile_api(engage: EngageSandbox, folder: Path, stack: ExitStack) -> Way:
    """The API of the same profiles, and a file of all ids: Amberflo has none at first."""
    sandbox, ids = ProfileApiSandbox("token", "space", limit=100_000), folder / "ids.txt"
    url = stack.enter_context(running(sandbox))

    def publish() -> None:
        sandbox.profiles = profiles_of(engage)
        ids.write_text("\n".join(engage.customer_ids()), encoding="utf-8")

    return Way(
        '[engage.profile_api]\ntoken = "token"\nspace_id = "space"\nrate = 100000\n'
        f'url = "{url}"\nids_file = "{ids}"\n',
        publish,
    )


#: The ways, by the name of their source.
WAYS: dict[str, Callable[[EngageSandbox, Path, ExitStack], Way]] = {
    "profiles_sync": profiles_sync,
    "profile_api": profile_api,
}
