"""An exit of a customer who is not known yet, which overtook the entry that it ends: it sends
nothing, and the entry does not count when it comes."""

from __future__ import annotations

import json
from itertools import chain, permutations, product
from typing import Any

import pytest
from sqlalchemy import text

from state import early_exits, erasure, queue, snapshot
from state.db.database import Database
from state.queue import Accepted
from state.snapshot import TraitRow
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import AUDIENCE
from syncer.passthrough.customer_calls import EXIT_LET_GO, OLDER
from syncer.passthrough.processor import Processor
from syncer.sync.changes import AMBERFLO, CustomerChange, TraitChange
from syncer.sync.commit import Writer
from syncer.sync.decision import Decision
from syncer.sync.diff import ENGAGE_WINS
from tests.support.state import NOW, ask, due_ids, records

Json = dict[str, Any]


class Desk:
    """Calls come in and are processed, each request in a transaction of its own or all in one."""

    def __init__(self, state: Database, calls: Database) -> None:
        self.state, self.calls, self.now = state, calls, NOW
        self._made = 0
        self.take_up_keys()

    def take_up_keys(self) -> None:
        """A run makes the keys ours."""
        kinds = {"vip": "audience", "gold": "audience", "spent": "computed_trait"}
        with self.state.write(alone=True) as connection:
            rows = [TraitRow(key, key, kind, 0) for key, kind in kinds.items()]
            snapshot.put_traits(connection, rows)

    def forget_keys(self) -> None:
        with self.state.write(alone=True) as connection:
            connection.execute(text("DELETE FROM trait"))

    @property
    def processor(self) -> Processor:
        return Processor(self.calls, self.state, ["*"], ["spent*"], lambda: self.now)

    def accept(self, *events: Json) -> None:
        bodies = []
        for event in events:
            self._made += 1
            bodies.append(json.dumps({"messageId": f"m{self._made}", **event}).encode())
        with self.calls.write() as connection:
            queue.accept(connection, [Accepted("webhook", body, 1, self.now) for body in bodies])

    def say(self, *events: Json) -> Json:
        """Accept and process events; gives how many ended how."""
        before = ask(self.calls, queue.counters)
        if events:
            self.accept(*events)
        while self.processor.process():
            pass
        self.processor.apply_early_calls()
        after = ask(self.calls, queue.counters)
        counts = {
            counter: after[counter] - before.get(counter, 0)
            for counter in after
            if counter[0] != "call"
        }
        return {counter: count for counter, count in counts.items() if count}

    def value(self, key: str = "vip", user: str = "u1") -> Any:
        """What the customer has; None too where there is no such customer."""
        customer = records(self.state).get(user)
        return None if customer is None else json.loads(customer["traits"]).get(key)

    def kept(self) -> int:
        return int(ask(self.state, early_exits.count))

    def members(self, key: str = "vip") -> int:
        return {row.key: row.members for row in ask(self.state, snapshot.traits)}[key]


def engage(value: Any, at: int, key: str = "vip", user: str = "u1") -> Json:
    what = "trait" if key.startswith("spent") else "audience"
    personas = {"computation_class": what, "computation_key": key}
    return {
        **{"type": "identify", "userId": user, "timestamp": NOW + at, "traits": {key: value}},
        "context": {"personas": personas},
    }


def identify(user: str = "u1") -> Json:
    return {"type": "identify", "userId": user, "traits": {"name": "Ada"}}


@pytest.fixture
def desk(database: Database, calls: Database) -> Desk:
    return Desk(database, calls)


def test_an_older_entry_does_not_count_and_a_newer_one_does(desk: Desk) -> None:
    desk.say(engage(False, -10), engage(None, -10, "spent"), engage(False, -10, user="u2"))
    assert (records(desk.state), records(desk.state, "change")) == ({}, {})
    assert (due_ids(desk.state), desk.kept(), desk.members()) == ([], 2, 0)
    older = engage(True, -20), engage(7, -20, "spent")
    assert desk.say(*older) == {("dropped", OLDER): 2, ("key", ""): 2}
    assert desk.say(engage(False, -30), engage(True, -29))["dropped", OLDER] == 2
    assert (records(desk.state), desk.members()) == ({}, 0)
    # What makes the customer known takes its exits along.
    desk.say(identify())
    assert desk.kept() == 1
    assert desk.say(*older)["dropped", OLDER] == 2
    assert (desk.value(), desk.value("spent")) == (None, None)
    desk.say(engage(True, -5), engage(9, -5, "spent"), engage(True, -5, user="u2"))
    assert (desk.value(), desk.value("spent"), desk.value(user="u2")) == (True, 9, True)
    assert (desk.kept(), desk.members()) == (0, 2)


def test_an_exit_is_kept_though_the_process_dies_before_the_queue_knows(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*arguments: Any) -> int:
        raise KeyboardInterrupt

    desk.accept(engage(False, -10))
    with monkeypatch.context() as patch:
        patch.setattr(queue, "store_processed", dies)
        with pytest.raises(KeyboardInterrupt):
            desk.processor.process()
    assert desk.kept() == 1
    desk.say(engage(True, -20))  # the request comes once more before it
    assert (records(desk.state), desk.kept()) == ({}, 1)


def test_exits_are_kept_for_a_day_and_of_so_many(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.say(engage(False, 0))
    desk.now += early_exits.KEPT
    desk.say(engage(False, 0, user="u2"))
    assert desk.kept() == 2
    desk.now += 1
    desk.say()
    assert desk.kept() == 1
    monkeypatch.setattr(early_exits, "MOST", 2)
    desk.now += 1
    counts = desk.say(engage(False, 0, user="u3"), engage(False, 0, user="u4"))
    assert (counts["noted", EXIT_LET_GO], desk.kept()) == (1, 2)
    for user, member in (("u2", True), ("u3", None), ("u4", None)):
        desk.say(engage(True, -1, user=user))
        assert desk.value(user=user) is member, user


def test_the_exits_of_who_is_forgotten_go(desk: Desk) -> None:
    desk.say(engage(False, 0), engage(False, 0, user="u2"))
    with desk.state.write(alone=True) as connection:
        erasure.erase(connection, "u1", NOW)
    assert desk.kept() == 1
    desk.say(engage(False, 1))
    assert desk.kept() == 1


def pull(desk: Desk, *changes: TraitChange, horizon: int = 0, **traits: Any) -> None:
    """A run commits what it pulled of u1, whom the state did not know when it compared."""
    names = ("vip", "gold", "spent")
    catalog = Catalog([KnownTrait(name, name, AUDIENCE) for name in names], {}, [])
    with desk.state.write(alone=True) as connection:
        writer = Writer(connection, 1, NOW, Decision(catalog), horizon=horizon)
        writer.write(CustomerChange("u1", False, traits, None, None, list(changes)))
        writer.flush()


def entry(key: str, at: int, **more: Any) -> TraitChange:
    return TraitChange(key, key, None, True, NOW + at)._replace(**more)


def test_a_pull_that_cannot_know_of_an_exit_brings_nobody_back(desk: Desk) -> None:
    desk.say(engage(False, -10))
    pull(desk, entry("vip", -20), vip=True)
    assert (records(desk.state), records(desk.state, "change"), desk.kept()) == ({}, {}, 1)
    pull(desk, entry("vip", -20), entry("gold", -20), vip=True, gold=True)
    assert (desk.value(), desk.value("gold"), desk.kept()) == (None, True, 0)
    assert [record["key"] for record in records(desk.state, "change").values()] == ["gold"]
    assert desk.say(engage(True, -15))["dropped", OLDER] == 1


@pytest.mark.parametrize(
    ("at", "horizon"), [(-5, 0), (-20, NOW), (-20, ENGAGE_WINS)], ids=["row", "horizon", "resync"]
)
def test_a_pull_that_is_newer_or_must_know_stands(desk: Desk, at: int, horizon: int) -> None:
    desk.say(engage(False, -10))
    pull(desk, entry("vip", at), horizon=horizon, vip=True)
    assert (desk.value(), desk.kept()) == (True, 0)
    assert due_ids(desk.state) == ["u1"]


def test_an_exit_that_amberflo_lacks_is_sent(desk: Desk) -> None:
    """Both Engage and a call say it; Amberflo has the customer as a member."""
    desk.say(engage(False, -10))
    change = TraitChange("vip", "vip", True, False, NOW - 20, AMBERFLO)
    pull(desk, change, vip=False)
    assert (desk.value(), due_ids(desk.state)) == (False, ["u1"])


#: What three calls say (whether the customer is a member, or has a value), the order in which they
#: come, and before which of them an identify call makes the customer known.
STORIES = list(
    product(product((False, True), repeat=3), permutations(range(3)), (None, 0, 1, 2, 3))
)


@pytest.mark.parametrize("ours", ["before", "later"])
@pytest.mark.parametrize("pages", ["one", "several"])
def test_calls_end_as_the_newest_says_in_whatever_order_they_come(
    desk: Desk, pages: str, ours: str
) -> None:
    """All orders of three calls of a customer and key, in one request or several, also where the
    key becomes ours in the midst of them."""
    if desk.state.engine.dialect.name != "sqlite" and (pages == "one") == (ours == "later"):
        return  # there each by itself is enough
    if ours == "later":
        desk.forget_keys()
    rounds: list[list[Json]] = [[], [], [], []]
    newest = {}
    for key in ("vip", "spent"):
        for number, (said, order, known) in enumerate(STORIES):
            values = (
                [*said]
                if key == "vip"
                else [place + 1 if it else None for place, it in enumerate(said)]
            )
            user = f"{key}-{number}"
            newest[user] = values[2] or None
            for step, place in enumerate(order):
                if known == step:
                    rounds[step].append(identify(user))
                rounds[step].append(engage(values[place], place - 10, key, user))
            if known == 3:
                rounds[3].append(identify(user))
    if pages == "one":
        rounds = [list(chain(*rounds))]
    for events in rounds:
        desk.say(*events)
        desk.take_up_keys()
    desk.say()
    customers = records(desk.state)
    for user, value in newest.items():
        traits = json.loads(customers[user]["traits"]) if user in customers else {}
        story = STORIES[int(user.split("-")[1])]
        assert (traits.get(user.split("-")[0]) or None) == value, story
    for key in ("vip", "spent"):
        assert desk.members(key) == len(STORIES) / 2
    with desk.state.read() as connection:
        assert not early_exits.find(connection, customers), "of who is known"
