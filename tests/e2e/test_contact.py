"""What Amberflo holds that the state does not know, read for a full compare."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pytest

from state import outbox, snapshot
from state.db.database import Database
from state.snapshot import CustomerRow
from syncer.amberflo.client import AmberfloClient
from syncer.amberflo.reader import CustomerReader
from syncer.engage.catalog import Catalog, KnownTrait
from syncer.engage.computations import AUDIENCE, COMPUTED_TRAIT
from syncer.errors import AmberfloError, KeyRefused
from syncer.sandbox.amberflo import AmberfloSandbox, Call, refuse, running
from syncer.sandbox.faults import Faults
from syncer.sync.consistent_reader import ListingResult
from syncer.sync.destination import Destination
from syncer.sync.first_contact import Example
from syncer.sync.join import DestinationState
from syncer.sync.owned_traits import EngageTraits
from tests.support.installation import API_KEY, Installation
from tests.support.warehouse import Warehouse

OWNED = ("vip", "total")


class Amberflo(AmberfloSandbox):
    """The stand-in, which may lag in its lists, have none, or change when one customer is read."""

    def __init__(self) -> None:
        super().__init__(API_KEY)
        self.no_pages = self.no_list = False
        self.late: dict[str, dict[str, Any] | None] = {}
        self.after_read: Callable[[str], None] = lambda customer_id: None

    def hold(self, customer_id: str, **traits: Any) -> None:
        now = time.time_ns() // 1_000_000
        record = {"customerId": customer_id, "id": customer_id, "customerName": customer_id}
        self.customers[customer_id] = {**record, "traits": traits, "updateTime": now}

    def _listed(self) -> list[dict[str, Any]]:
        shown = {**{record["customerId"]: record for record in super()._listed()}, **self.late}
        return [record for record in shown.values() if record is not None]

    def _page_customers(self, call: Call) -> Any:
        if self.no_pages:
            refuse("no pages")
        return super()._page_customers(call)

    def _get_customers(self, call: Call) -> Any:
        customer_id = call.query.get("customerId")
        if customer_id is None and self.no_list:
            refuse("no list")
        answer = super()._get_customers(call)
        if customer_id is not None:
            self.after_read(customer_id)
        return answer


class Lines:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, stage: str, total: int, done: int = 0) -> None:
        pass

    def at(self, done: int) -> None:
        pass

    def end(self) -> None:
        pass


class World:
    """A state, an Amberflo, and contact between them."""

    def __init__(self, database: Database, amberflo: Amberflo, url: str) -> None:
        self.database, self.amberflo, self.url = database, amberflo, f"{url}/customers"
        self.lines = Lines()

    def know(self, customer_id: str, called: str | None = None, **traits: Any) -> None:
        """The state has it, and nothing is due."""
        text = orjson.dumps(traits, option=orjson.OPT_SORT_KEYS).decode()
        now = time.time_ns() // 1_000_000
        with self.database.write() as connection:
            row = CustomerRow(customer_id, text, None, None, called, None)
            snapshot.insert_customers(connection, [row], now)
            claimed = outbox.claim(connection, 1, now, 10)
            outbox.acknowledge(connection, claimed, now)

    @contextmanager
    def contact(
        self,
        owned: tuple[str, ...] = OWNED,
        key: str = API_KEY,
        must: bool = False,
        **settings: Any,
    ) -> Iterator[Destination]:
        @asynccontextmanager
        async def connect() -> Any:
            async with AmberfloClient(key, customers_url=self.url) as client:
                yield CustomerReader(client, patience=0.3, chance=lambda: 0.0)

        contact = Destination(self.database, connect, self.lines, at_a_time=4, **settings)
        with closing(contact):
            contact.read(must=must)
            contact.confirm(owned)
            yield contact

    def drifted(self, **settings: Any) -> dict[str, tuple[int, dict[str, Any], bool]]:
        with self.contact(**settings) as contact:
            return {
                row.customer_id: (row.rev, orjson.loads(row.traits), row.missing)
                for row in contact.drifted()
            }


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    amberflo = Amberflo()
    with (
        running(amberflo) as url,
        closing(Database.open(f"sqlite:///{tmp_path / 'syncer.db'}")) as database,
    ):
        yield World(database, amberflo, url)


def test_who_is_unknown_here_and_what_it_holds(world: World) -> None:
    world.know("known", vip=True)
    world.amberflo.hold("known", vip=True, stripeId="cus_1")
    world.amberflo.hold("unknown", vip="true", plan="pro")
    world.amberflo.hold("gone", vip=True)
    world.amberflo.customers["gone"]["deleteTime"] = 1
    with world.contact() as contact:
        assert contact.listing is ListingResult.WITH_TRAITS
        assert contact.before(["known", "unknown", "gone", "nobody"]) == {
            "unknown": DestinationState(None, {"vip": "true", "plan": "pro"}, False)
        }
        assert contact.traits(["known", "gone"]) == {"known": {"vip": True, "stripeId": "cus_1"}}
        assert (contact.unknown, list(contact.drifted()), contact.newer) == (1, [], 0)
        assert contact.notice is None
        contact.drop(["unknown"])
        assert contact.before(["unknown"]) == {}
    assert world.lines.said == ["reading what Amberflo holds"]


def test_all_come_in_byte_order_and_go_on_after_one(world: World) -> None:
    ids = ["A", "a", "z", "ä", "\uffee", "😀", " x", "'", *(f"u{n:04}" for n in range(1200))]
    for id_ in ids:
        world.amberflo.hold(id_, vip=True)
    wanted = sorted(ids, key=str.encode)
    with world.contact() as contact:
        records = list(contact.records())
        assert records == [(customer_id, '{"vip":true}') for customer_id in wanted]
        assert [customer_id for customer_id, _ in contact.records("u0600")] == wanted[
            wanted.index("u0600") + 1 :
        ]
        assert contact.before(ids).keys() == set(ids)


@pytest.mark.parametrize(
    ("holds", "drifts"),
    [
        ({"vip": True, "total": 5}, False),
        ({"vip": "true", "total": "5.0", "other": 1}, False),
        ({"vip": False, "total": 5}, True),
        ({"vip": True}, True),
        ({"vip": True, "total": 5, "lost": True}, False),  # no name of ours
        ({}, True),
    ],
)
def test_known_ones_drift_in_what_is_ours(
    world: World, holds: dict[str, Any], drifts: bool
) -> None:
    world.know("u1", vip=True, total=5)
    world.amberflo.hold("u1", **holds)
    assert world.drifted() == ({"u1": (1, holds, False)} if drifts else {})


def test_a_name_that_becomes_ours_is_seen_with_what_others_wrote(world: World) -> None:
    world.know("u1", vip=True)
    world.amberflo.hold("u1", vip=True, gold="set by the CRM", stripeId="cus_1")
    assert world.drifted() == {}
    drifts = world.drifted(owned=("vip", "gold", "stripeId"), protected=("stripe*",))
    assert list(drifts) == ["u1"]
    with world.contact(owned=("gold",), protected=("stripe*",)) as contact:
        assert contact.before(["u1"])["u1"].traits == {"vip": True, "gold": "set by the CRM"}
    protected = ("stripe*", "gold")
    assert world.drifted(owned=("vip", "gold", "stripeId"), protected=protected) == {}


def test_what_identify_calls_said_is_not_looked_at(world: World) -> None:
    world.know("u1", identify_traits='{"plan":["pro",1]}', vip=True)
    world.amberflo.hold("u1", vip=True, plan="free")
    assert world.drifted() == {}


def test_a_customer_that_is_gone_is_missing(world: World) -> None:
    world.know("u1", vip=True)
    world.know("u2", vip=True)
    world.amberflo.hold("u2", vip=True)
    with world.contact() as contact:
        assert contact.before(["u1", "u2"]) == {"u1": DestinationState(1, {}, True)}
        assert contact.newer == 0


def test_a_listing_is_not_believed(world: World) -> None:
    """It may lag, about what a customer holds and whether it is there; and about one that seems
    right nobody asks."""
    for customer_id in ("late", "not there yet", "right by the list"):
        world.know(customer_id, vip=True)
        world.amberflo.hold(customer_id, vip=True)
        world.amberflo.late[customer_id] = {"customerId": customer_id, "traits": {"vip": True}}
    world.amberflo.late["late"] = {"customerId": "late", "traits": {"vip": False}}
    world.amberflo.late["not there yet"] = None
    world.amberflo.hold("right by the list", vip=False)
    assert world.drifted() == {}
    assert world.amberflo.stats()["requests"]["GET /customers"] == 2


def test_what_is_due_refused_or_on_its_way_is_not_judged(world: World) -> None:
    """But who was never sent is as Amberflo has it."""
    ids = ["due", "never sent", "refused", "changing", "settled"]
    for known_id in ids:
        world.amberflo.hold(known_id, vip=False)
    for known_id in ("due", "changing", "settled"):
        world.know(known_id, vip=True)
    world.know("refused", vip=False)
    never, refused = (
        CustomerRow(id_, '{"vip":true}', None, None, None, None)
        for id_ in ("never sent", "refused")
    )
    with world.database.write() as connection:
        snapshot.insert_customers(connection, [never], 1)
        snapshot.update_customers(connection, [refused], 1)
        outbox.dead_letter(connection, outbox.claim(connection, 1, 1, 10))
        outbox.send_again(connection, 1, customer_ids=["due"])

    def change(customer_id: str) -> None:
        if customer_id == "changing":
            with world.database.write() as connection:
                outbox.send_again(connection, 1, customer_ids=["changing"])

    world.amberflo.after_read = change
    with world.contact() as contact:
        assert [row.customer_id for row in contact.drifted()] == ["settled"]
        states = contact.before(ids)
        assert list(states) == ["never sent", "settled"]
        assert set(states["never sent"].judged or ()) == {"vip"}
        assert states["settled"].judged is None


def test_a_change_between_two_looks_is_seen_at_its_rev(world: World) -> None:
    world.know("u1", vip=True)
    world.amberflo.hold("u1", vip=False)
    turns = ["once"]

    def change(customer_id: str) -> None:
        if turns and turns.pop():
            now = time.time_ns() // 1_000_000
            with world.database.write() as connection:
                row = CustomerRow("u1", '{"total":1,"vip":true}', None, None, None, None)
                snapshot.update_customers(connection, [row], now)
                outbox.acknowledge(connection, outbox.claim(connection, 1, now, 1), now)

    world.amberflo.after_read = change
    assert world.drifted() == {"u1": (2, {"vip": False}, False)}


def test_a_state_that_is_older_says_so(world: World) -> None:
    for customer_id in ("u1", "u2", "u3"):
        world.know(customer_id, vip=True)
        world.amberflo.hold(customer_id, vip=False)
        world.amberflo.customers[customer_id]["updateTime"] = 1_700_000_000_000
    time.sleep(0.01)
    for customer_id in ("u1", "u2"):
        world.amberflo.hold(customer_id, vip=False)
    with world.contact() as contact:
        assert contact.newer == 2
        assert contact.acknowledged is not None
        assert contact.notice is not None
        assert contact.notice.startswith(
            "2 customers hold at Amberflo something newer than what this state acknowledged last (2"
        )
        assert len([*contact.drifted()]) == 3


WAYS: list[tuple[dict[str, bool], ListingResult]] = [
    ({}, ListingResult.WITH_TRAITS),
    ({"no_pages": True}, ListingResult.WITH_TRAITS),
    ({"paging_traits": False}, ListingResult.WITH_TRAITS),
    ({"paging_traits": False, "list_traits": False}, ListingResult.WITHOUT_TRAITS),
    ({"no_pages": True, "list_traits": False}, ListingResult.WITHOUT_TRAITS),
    ({"paging_traits": False, "no_list": True}, ListingResult.WITHOUT_TRAITS),
]


@pytest.mark.parametrize(("switches", "listed"), WAYS)
def test_in_every_way_that_amberflo_can_be_read(
    world: World, switches: dict[str, bool], listed: ListingResult
) -> None:
    for number in range(30):
        world.amberflo.hold(f"u{number}", vip=True)
    world.know("k0", vip=True)
    world.know("k1", vip=True)
    world.amberflo.hold("k0", vip=False)
    vars(world.amberflo).update(switches)
    with world.contact() as contact:
        assert contact.listing is listed
        seen = contact.before([f"u{number}" for number in range(30)])
        assert seen == {f"u{number}": DestinationState(None, {"vip": True}) for number in range(30)}
        # Where no list shows traits, of the known ones it shows who is there.
        drifted = ["k0", "k1"] if listed is ListingResult.WITH_TRAITS else ["k1"]
        assert [row.customer_id for row in contact.drifted()] == drifted
    alone = world.amberflo.stats()["requests"].get("GET /customers", 0)
    assert (alone > 30) == (listed is ListingResult.WITHOUT_TRAITS)


def test_where_amberflo_lists_nobody_nothing_is_believed(world: World) -> None:
    world.know("u1", vip=True)
    world.amberflo.no_pages = world.amberflo.no_list = True
    with world.contact() as contact:
        assert contact.listing is ListingResult.NOBODY
        assert (list(contact.drifted()), contact.before(["u1"])) == ([], {})
    assert any("lists no customers" in line for line in world.lines.said)
    with pytest.raises(AmberfloError, match="lists no customers: GET "), world.contact(must=True):
        pass


def test_where_amberflo_cannot_be_reached_it_says_so(world: World) -> None:
    with pytest.raises(KeyRefused), world.contact(key="wrong"):
        pass
    world.amberflo.faults = Faults.parse("503=1")
    with pytest.raises(AmberfloError, match="sent no usable answer"), world.contact():
        pass


# What a comparison makes of it


def test_first_contact_is_counted_by_trait(world: World) -> None:
    traits = [KnownTrait(name, name, AUDIENCE) for name in ("vip", "gold", "stripeId")]
    catalog = Catalog([*traits, KnownTrait("total", "total", COMPUTED_TRAIT)], {}, [])
    with world.contact(protected=("stripeId",)) as contact:
        first = contact.first_contact(catalog)
    for number in range(15):
        first.note(
            f"u{number}", DestinationState(None, {"vip": "true"}), EngageTraits({"vip": True}), {}
        )
        first.note(
            f"v{number}",
            DestinationState(3, {"vip": True, "plan": "pro"}),
            EngageTraits({}),
            {"vip": False},
        )
    held = {"total": "12", "gold": "gold", "stripeId": "y"}
    first.note("w", DestinationState(None, held), EngageTraits({"total": "a/b"}), {})
    unread = frozenset(["total"])
    first.note(
        "x", DestinationState(None, {"total": 7, "vip": False}), EngageTraits({}, unread), {}
    )
    first.note(
        "y",
        DestinationState(2, {"total": "5", "vip": True}),
        EngageTraits({}),
        {"total": 5, "vip": True},
    )
    gold, total, vip = first.by_name()
    assert (vip.trait, vip.found, vip.differ, len(vip.examples)) == ("vip", 31, 15, 10)
    assert vip.examples[0] == Example("v0", True, False)
    assert (gold.found, gold.examples) == (1, [Example("w", "gold", None)])
    assert (total.found, total.differ) == (1, 1)
    assert total.examples == [Example("w", "12", "a_b")]


def test_diff_names_what_a_full_run_finds_at_amberflo(installation: Installation) -> None:
    """And asks Amberflo nothing without being told to."""
    with closing(Warehouse(installation.folder / "engage.db")) as warehouse:
        for number in range(5):
            warehouse.person(f"m{number}", vip="true")
        warehouse.person("left", vip="false")
        warehouse.person("taken", gold="true")
        known = installation.amberflo
        record = {"customerName": "x", "traits": {"vip": True, "stripeId": "cus_1"}}
        for customer_id in ("m0", "left", "unknown to Engage"):
            known.customers[customer_id] = {"customerId": customer_id, "id": customer_id, **record}
        known.customers["taken"] = {
            "customerId": "taken",
            "id": "taken",
            "customerName": "x",
            "traits": {"vip": "set by the CRM"},
        }
        before = deepcopy(known.customers)
        assert "amberflo" not in installation.json("diff", "--full")
        assert known.stats()["requests"] == {}
        document = installation.json("diff", "--amberflo")
        assert document["amberflo"] == {
            "traits": [
                {
                    "trait": "vip",
                    "customers": 3,
                    "differ": 2,
                    "examples": [
                        {"customer_id": "left", "actual": True, "expected": False},
                        {"customer_id": "taken", "actual": "set by the CRM", "expected": None},
                    ],
                }
            ],
            "unknown": 4,
        }
        said = installation.run("diff", "--amberflo", "--customers")
        assert 'taken: vip is "set by the CRM" at Amberflo, absent by Engage' in said.stdout
        assert "4 customers at Amberflo are unknown here" in said.stdout
        assert (known.customers, known.stats()["puts"]) == (before, {})
        assert not (installation.folder / "syncer.db").exists()
        # Known ones show what others wrote under a name that becomes ours, and what drifted.
        installation.run("sync")
        warehouse.person("m1", 1, vip="true", silver="true")
        known.customers["m2"]["traits"]["silver"] = "bright"
        known.customers["m3"]["traits"]["vip"] = False
        document = installation.json("diff", "--amberflo")
        assert document["kind"] == "reconcile"
        examples = {trait["trait"]: trait["examples"] for trait in document["amberflo"]["traits"]}
        assert examples["silver"] == [{"customer_id": "m2", "actual": "bright", "expected": None}]
        assert {"customer_id": "m3", "actual": False, "expected": True} in examples["vip"]
        known.faults = Faults.parse("503=1")
        installation.configure(patience=0.3)
        said = installation.run("diff", "--amberflo", exit_code=1)
        assert "error: Amberflo sent no usable answer" in said.stderr
