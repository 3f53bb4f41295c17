"""A desk at which calls come in by keys."""

from __future__ import annotations

import json
from typing import Any

from state import outbox, queue, snapshot
from state.db.database import Database
from state.queue import Accepted
from state.snapshot import TraitRow
from syncer.passthrough.processor import Processor
from syncer.passthrough.scopes import SCOPES
from syncer.sync.trait_owners import take_from_calls
from tests.support.state import NOW, ask, records

HOUR = 3_600_000
Json = dict[str, Any]


class Desk:
    """Calls come in by keys, and are sorted."""

    def __init__(self, state: Database, calls: Database) -> None:
        self.state, self.calls = state, calls
        self.now, self.deletes, self._made = NOW, 100, 0
        self.audiences = ["*"]
        self.know("vip")
        self.know("spent", "computed_trait")

    def know(self, key: str, kind: str = "audience") -> None:
        """A run pulls a trait."""
        with self.state.write(alone=True) as connection:
            take_from_calls(connection, [key], 1, self.now)
            snapshot.put_traits(connection, [TraitRow(key, key, kind, 0)])

    @property
    def processor(self) -> Processor:
        return Processor(
            *(self.calls, self.state, self.audiences, ["spent*"], lambda: self.now),
            protected=("stripeId", "stripe_id", "awsm.*"),
            deletes_per_day=self.deletes,
        )

    def say(self, *events: Json, may: Any = SCOPES, key: str = "server") -> Json:
        """Accept and sort events; gives how many ended how."""
        before = ask(self.calls, queue.counters)
        for event in events:
            self._made += 1
            body = {"userId": "u1", "messageId": f"m{self._made}", **event}
            accepted = Accepted(
                *("webhook", json.dumps(body).encode(), 1, self.now), key, ",".join(sorted(may))
            )
            with self.calls.write() as connection:
                queue.accept(connection, [accepted])
        while self.processor.process():
            pass
        return self._since(before)

    def settle(self) -> Json:
        before = ask(self.calls, queue.counters)
        self.processor.apply_early_calls()
        return self._since(before)

    def _since(self, before: Json) -> Json:
        after = ask(self.calls, queue.counters)
        counts = {counter: after[counter] - before.get(counter, 0) for counter in after}
        return {counter: count for counter, count in counts.items() if count}

    def identify(self, **traits: Any) -> Json:
        return self.say({"type": "identify", "traits": traits})

    def engage(self, key: str, value: Any, user: str = "u1", **options: Any) -> Json:
        return self.say(membership(key, value, user), **options)

    def customer(self, user: str = "u1") -> Json:
        record = records(self.state)[user]
        return {name: json.loads(record[name] or "{}") for name in ("traits", "identify_traits")}

    def claimed(self, limit: int = 100) -> list[str]:
        with self.state.write() as connection:
            rows = outbox.claim(connection, 1, self.now, limit)
        return [row.customer_id for row in rows]

    def deliver(self) -> None:
        with self.state.write() as connection:
            outbox.acknowledge(connection, outbox.claim(connection, 1, self.now, 100), self.now)


def membership(key: str, value: Any, user: str = "u1", what: str = "audience") -> Json:
    personas = {"computation_class": what, "computation_key": key}
    return {
        **{"type": "identify", "userId": user, "traits": {key: value}},
        "context": {"personas": personas},
    }
