"""One population of Engage, and each way by which the program may read it.

A new source gets a function in `WAYS`: tests/e2e/sources/test_same_population.py then runs it.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

from syncer.engage.trait_names import snake_case
from syncer.sandbox.engage import EngageSandbox
from syncer.sandbox.profile_api import ProfileApiSandbox, profiles_of, running
from tests.support.desk import take
from tests.support.events import engage_call, unique
from tests.support.installation import Installation

PEOPLE = ("name", "email")


@dataclass(frozen=True)
class Way:
    """What the config says as a section, and in `[engage]`; `publish` shows what Engage has."""

    section: str
    publish: Callable[[], None] = lambda: None
    engage: str = ""


def profiles_sync(engage: EngageSandbox, installation: Installation, stack: ExitStack) -> Way:
    """The tables that the sandbox writes: the installation names them by itself."""
    return Way("")


def profile_api(engage: EngageSandbox, installation: Installation, stack: ExitStack) -> Way:
    """The API of the same profiles, and a file of all ids: Amberflo has none at first."""
    sandbox, ids = (
        ProfileApiSandbox("token", "space", limit=100_000),
        installation.folder / "ids.txt",
    )
    url = stack.enter_context(running(sandbox))

    def publish() -> None:
        sandbox.profiles = profiles_of(engage)
        ids.write_text("\n".join(engage.customer_ids()), encoding="utf-8")

    return Way(
        '[engage.profile_api]\ntoken = "token"\nspace_id = "space"\nrate = 100000\n'
        f'url = "{url}"\nids_file = "{ids}"\n',
        publish,
    )


def engage_warehouse(engage: EngageSandbox, installation: Installation, stack: ExitStack) -> Way:
    """The wide table of the same users; a journey's key is not the name of its column."""
    path = installation.folder / "wide.db"
    keys = sorted({key for profile in engage.profiles() for key in profile.newest()})

    def publish() -> None:
        columns = [snake_case(key) for key in keys]
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("DROP TABLE IF EXISTS users")
            database.execute(
                f"CREATE TABLE users (id, received_at, uuid_ts, context_ip, {', '.join(columns)})"
            )
            for customer_id, traits in _people(engage):
                times = [max((at for _, at in traits.values()), default="2026-01-01")] * 2
                cells = [traits.get(key, (None, ""))[0] for key in keys]
                row = (customer_id, *times, "::1", *cells)
                marks = ", ".join("?" * len(row))
                database.execute(f"INSERT INTO users VALUES ({marks})", row)

    journeys = [key for key in keys if "__" in key]
    section = f'[engage.engage_warehouse]\nurl = "sqlite:///{path}"\n'
    return Way(section, publish, f"audiences = {json.dumps(['*', *journeys])}\n")


def lists(engage: EngageSandbox, installation: Installation, stack: ExitStack) -> Way:
    """A download of each key: who has it, and which value."""
    folder = installation.folder / "lists"
    folder.mkdir()
    keys = sorted({key for profile in engage.profiles() for key in profile.newest()})

    def publish() -> None:
        for key in keys:
            with (folder / f"{key}-{unique()}.csv").open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["key", "value", "external_ids"])
                for customer_id, traits in _people(engage):
                    if (value := traits.get(key, (None, ""))[0]) is not None:
                        ids = json.dumps({"user_id": [customer_id]})
                        rows.writerow([f"p-{customer_id}", value, ids])

    sets = ", ".join(f'{{ path = "lists/{key}-*.csv", key = "{key}" }}' for key in keys)
    return Way(f'[engage.files]\nsettle = "0"\nsets = [{sets}]\n', publish)


def logs(engage: EngageSandbox, installation: Installation, stack: ExitStack) -> Way:
    """Calls of Engage, a file each time."""
    folder, said = installation.folder / "logs", dict[tuple[str, str], Any]()
    folder.mkdir()

    def publish() -> None:
        calls = [json.dumps(call) for call in _calls(engage, said)]
        path = folder / f"{unique()}.jsonl"
        path.write_text("\n".join([*calls, ""]), encoding="utf-8")

    sets = '[{ path = "logs/*.jsonl", kind = "log" }]'
    return Way(f'[engage.files]\nsettle = "0"\nsets = {sets}\n', publish)


def events(engage: EngageSandbox, installation: Installation, stack: ExitStack) -> Way:
    """The same calls by the webhook; names and emails come by identify calls."""
    said = dict[tuple[str, str], Any]()

    def publish() -> None:
        said.update(dict.fromkeys([key for key in said if not key[1]]))  # all is told again
        calls = sorted(_calls(engage, said), key=lambda call: False in call["traits"].values())
        take(installation, *calls)  # who is no member counts once it is a customer
        installation.run("sync")  # it takes up the keys
        people = (
            (customer_id, {key: traits[key][0] for key in PEOPLE if key in traits})
            for customer_id, traits in _people(engage)
        )
        known = {each for (each, key), value in said.items() if key and value not in (False, None)}
        take(
            installation,
            *(
                {"type": "identify", "messageId": unique(), "userId": each, "traits": traits}
                for each, traits in people
                if each in known
            ),
        )

    return Way('[passthrough]\nwebhook_secret = "shared-webhook-secret-77"\n', publish)


def _people(engage: EngageSandbox) -> Iterator[tuple[str, dict[str, tuple[str | None, str]]]]:
    """Yield each customer with the newest text of each trait, and its time."""
    for profile in engage.profiles():
        newest = profile.newest().items()
        traits = {key: (text, moment.timestamp) for key, (text, moment) in newest}
        for customer_id in profile.customers():
            yield customer_id, traits


def _typed(text: str | None) -> Any:
    """A value as a call has it."""
    with suppress(ValueError):
        return None if text is None else json.loads(text)
    return text


def _calls(engage: EngageSandbox, said: dict[tuple[str, str], Any]) -> Iterator[dict[str, Any]]:
    """Yield what Engage calls since the last time: values that changed, and those that are gone."""
    for customer_id, traits in _people(engage):
        people = {key: traits[key][0] for key in PEOPLE if key in traits}
        before = {key for each, key in said if each == customer_id and key}
        again = said.get((customer_id, "")) != people  # a name comes with the next call
        said[customer_id, ""] = people
        for key in sorted({*traits, *before}):
            text = traits[key][0] if key in traits else None
            trait = key.startswith("total_revenue_")
            if not trait and text not in ("true", "false", None):
                continue
            value = _typed(text)
            if not trait and value is None:
                value = False  # of an audience a call says no null
            same = (customer_id, key) in said and said[customer_id, key] == value
            if (same and not again) or (value is None and key not in before):
                continue
            said[customer_id, key] = value
            at = f"{traits[key][1]}Z" if key in traits else f"{engage.clock.isoformat()}"
            call = engage_call(customer_id, key, value, at, what="trait" if trait else "audience")
            yield call | {"traits": call["traits"] | people}


#: The ways, by the name of their source, and of the way where a source has several.
WAYS: dict[str, Callable[[EngageSandbox, Installation, ExitStack], Way]] = {
    "profiles_sync": profiles_sync,
    "engage_warehouse": engage_warehouse,
    "profile_api": profile_api,
    "files, lists": lists,
    "files, logs": logs,
    "events": events,
}
