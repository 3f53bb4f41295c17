"""What is true in a scenario: what Engage and the calls said, and since when.

It follows the stand-in's own model and the calls as they were accepted, never the product.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from syncer.amberflo.record import at_amberflo
from syncer.sandbox.engage import Customer, EngageSandbox

Event = dict[str, Any]

#: Calls say that they happened a minute ago (milliseconds), so not after they were received: what
#: is in the warehouse is a month older. An old call says that it happened so much earlier, before
#: anything that is in the warehouse.
AGO = 60 * 1000
OLD = 400 * 24 * 3600 * 1000


@dataclass
class Model:
    """The truth. `position` in what follows is the number of Amberflo's writes until then."""

    engage: EngageSandbox
    #: the newest call that was accepted: of a membership, an identify's trait, name or email
    memberships: dict[tuple[str, str], bool] = field(default_factory=dict)
    #: old ones: they hold until a pull has a row, which is newer
    late: dict[tuple[str, str], bool] = field(default_factory=dict)
    called: dict[str, dict[str, Any]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    emails: dict[str, str] = field(default_factory=dict)
    #: meter records by messageId, as they must come to Amberflo
    meters: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: by customer and audience, the position since which it was said to be a member, or not
    member_since: dict[tuple[str, str], int] = field(default_factory=dict)
    other_since: dict[tuple[str, str], int] = field(default_factory=dict)
    #: customers with their traits, and their emails, that a committed pull has seen
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen_emails: dict[str, str | None] = field(default_factory=dict)
    #: what a resync may have taken back: of a membership, an identify's name or email
    taken_back: set[tuple[str, str]] = field(default_factory=set)
    _made: int = 0

    def look(self, position: int) -> None:
        """The warehouse says something new from now on; so it may be told, also where a newer call
        waits in the inbox."""
        for customer in self.engage.expected():
            for key in self.engage.audiences:
                self._say(customer.customer_id, key, customer.traits.get(key) is True, position)

    def observe(self) -> None:
        """A run has committed what Engage says now."""
        self.seen = {
            customer.customer_id: dict(customer.traits) for customer in self.engage.expected()
        }
        self.seen_emails = {
            customer.customer_id: customer.email for customer in self.engage.expected()
        }
        self.engage.observe()

    def resynced(self) -> None:
        """A resync has committed: Engage wins in all that calls said before its pull. Of those that
        crossed it, or were not sorted yet, either may hold."""
        self.taken_back |= self.memberships.keys() | self.late.keys()
        self.taken_back |= {(customer_id, "customerName") for customer_id in self.names}
        self.taken_back |= {(customer_id, "customerEmail") for customer_id in self.emails}

    def kept_back(self, places: set[tuple[str, str]]) -> None:
        """A call that says what a hold keeps back, or what was rejected, is not kept: should that
        end another way, Engage's word stands."""
        self.taken_back |= places & (self.memberships.keys() | self.late.keys())

    def all_seen(self) -> bool:
        """Whether the last committed pull saw what Engage says now."""
        return self.seen == {
            customer.customer_id: dict(customer.traits) for customer in self.engage.expected()
        }

    def _say(self, customer_id: str, key: str, member: bool, position: int) -> None:
        since = self.member_since if member else self.other_since
        since.setdefault((customer_id, key), position)

    # What must come of it

    def traits(self) -> dict[str, dict[str, Any]]:
        """By customer, the traits of Engage: the warehouse's, and newer ones by call."""
        by_customer = {
            customer.customer_id: dict(customer.traits) for customer in self.engage.expected()
        }
        rows = self._rows() if self.late else set()
        late = {place: member for place, member in self.late.items() if place not in rows}
        for (customer_id, key), member in (late | self.memberships).items():
            by_customer.setdefault(customer_id, {})[key] = member
        return by_customer

    def _rows(self) -> set[tuple[str, str]]:
        """The customers and keys of which the warehouse has a row."""
        return {
            (customer_id, key)
            for _, profile in self.engage._profiles()
            for customer_id in profile.customers()
            for key in profile.newest()
        }

    def records(self, holds: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """What Amberflo must hold: name, email and traits by customer; what it `holds` where either
        of two may be."""
        by_customer = self._by_calls()
        engage = {customer.customer_id: customer for customer in self.engage.expected()}
        for customer_id, field_or_key in self.taken_back:
            record, held = by_customer[customer_id], holds.get(customer_id, {})
            known = engage.get(customer_id)
            if field_or_key in ("customerName", "customerEmail"):
                says = (known.name or customer_id, known.email) if known else (customer_id, None)
                said = says[field_or_key == "customerEmail"]
                if held.get(field_or_key) == said:
                    record[field_or_key] = said
                continue
            value = held.get("traits", {}).get(field_or_key)
            if known is not None and field_or_key in known.traits:
                may = value is at_amberflo(known.traits[field_or_key])
            else:
                may = value is not True
            if may:
                record["traits"].pop(field_or_key, None)
                if value is not None:
                    record["traits"][field_or_key] = value
        return {
            customer_id: record
            for customer_id, record in by_customer.items()
            if customer_id in holds or not self._is_nobody(customer_id, record, engage.keys())
        }

    def _is_nobody(self, customer_id: str, record: Event, engage: Collection[str]) -> bool:
        """Whether all that was ever said of somebody was taken back before it was sent."""
        told = customer_id in engage or customer_id in self.called or customer_id in self.names
        return not told and True not in record["traits"].values()

    def _by_calls(self) -> dict[str, dict[str, Any]]:
        """The same where no resync takes back what calls say."""
        by_customer: dict[str, dict[str, Any]] = {
            customer.customer_id: {
                "customerName": customer.name or customer.customer_id,
                "customerEmail": customer.email,
                "traits": {},
            }
            for customer in self.engage.expected()
        }
        traits = self.traits()
        for customer_id in traits.keys() | self.called.keys():
            nobody: dict[str, Any] = {
                "customerName": customer_id,
                "customerEmail": None,
                "traits": {},
            }
            record = by_customer.setdefault(customer_id, nobody)
            if customer_id in self.names:
                record["customerName"] = self.names[customer_id]
            if customer_id in self.emails:
                record["customerEmail"] = self.emails[customer_id]
            said = self.called.get(customer_id, {}) | traits.get(customer_id, {})
            record["traits"] = {name: at_amberflo(value) for name, value in said.items()}
        return by_customer

    # Calls

    def calls(self, rng: Random, count: int, now: int) -> list[Event]:
        """Calls that could come now (epoch milliseconds), some of them twice."""
        kinds = (self._track, self._track, self._page, self._membership, self._stranger)
        events: list[Event] = []
        for _ in range(count):
            event = rng.choice((*kinds, self._identify))(rng)
            self._made += 1
            at = now - AGO + self._made - (OLD if event.get("old") else 0)
            events.append({"messageId": f"m-{self._made}", "timestamp": at, **event})
            if rng.random() < 0.15:
                events.append(events[-1])
        return events

    def crossing(self, rng: Random, now: int) -> Event | None:
        """A call of a membership, or an email, that the warehouse changed since the last pull;
        None: there is none. It says what the last pull saw (another email), and is newer than what
        the next one will see."""
        events = [
            _membership(customer_id, key, was)
            for customer_id, customer in self._present()
            for key in self.engage.audiences
            if key in self.seen[customer_id]
            and (was := self.seen[customer_id][key]) != customer.traits.get(key, False)
            and (customer_id, key) not in self.memberships
        ]
        events += [
            {"type": "identify", "userId": customer_id, "traits": {"email": "new@example.com"}}
            for customer_id, customer in self._present()
            if customer.email != self.seen_emails[customer_id] and customer_id not in self.emails
        ]
        if not events:
            return None
        self._made += 1
        at = now - AGO + self._made
        return {"messageId": f"m-{self._made}", "timestamp": at, **rng.choice(events)}

    def accepted(self, events: list[Event], position: int) -> None:
        """These are durable."""
        for event in events:
            customer_id, personas = event["userId"], event.get("context", {}).get("personas")
            if customer_id.startswith("stranger"):
                for key in self.engage.audiences:  # of the others nobody said anything
                    if (customer_id, key) not in self.memberships:
                        self._say(customer_id, key, False, position)
            if personas is not None:
                key = personas["computation_key"]
                member = event["properties"][key]
                said = self.late if event.get("old") else self.memberships
                said[customer_id, key] = member
                # An old one of whom a row that is gone now said no is old news: no may stay.
                change = set.add if event.get("old") else set.discard
                change(self.taken_back, (customer_id, key))
                self._say(customer_id, key, member, position)
            elif event["type"] == "identify":
                traits = dict(event["traits"])
                for key, name, known in (
                    ("name", "customerName", self.names),
                    ("email", "customerEmail", self.emails),
                ):
                    if key in traits:
                        known[customer_id] = traits.pop(key)
                        self.taken_back.discard((customer_id, name))
                self.called.setdefault(customer_id, {}).update(traits)
            else:
                self.meters[event["messageId"]] = _meter(event)

    def _present(self) -> list[tuple[str, Customer]]:
        now = {customer.customer_id: customer for customer in self.engage.expected()}
        return [(customer, now[customer]) for customer in sorted(now.keys() & self.seen.keys())]

    def _someone(self, rng: Random) -> str:
        return rng.choice(sorted(self.seen) or [f"stranger-{rng.randrange(4)}"])

    def _track(self, rng: Random) -> Event:
        properties = {"value": rng.randrange(100), "region": rng.choice(("us", "eu"))}
        user = self._someone(rng)
        return {"type": "track", "event": "ApiCalls", "userId": user, "properties": properties}

    def _page(self, rng: Random) -> Event:
        return {"type": "page", "name": "Home", "userId": self._someone(rng), "properties": {}}

    def _identify(self, rng: Random) -> Event:
        traits = {"plan_tier": rng.choice(("gold", "silver")), "seats": rng.randrange(9)}
        if rng.random() < 0.3:
            traits["email"] = f"called-{rng.randrange(99)}@example.com"
        return {"type": "identify", "userId": self._someone(rng), "traits": traits}

    def _membership(self, rng: Random) -> Event:
        """Of a customer and an audience that a pull has seen; now and then an old one, which must
        not outlast the next pull."""
        known = [
            (customer, key)
            for customer in sorted(self.seen)
            for key in self.engage.audiences
            if key in self.seen[customer]
        ]
        if not known:
            return self._stranger(rng)
        customer, key = rng.choice(known)
        event = _membership(customer, key, rng.random() < 0.5)
        return event | {"old": True} if rng.random() < 0.15 else event

    def _stranger(self, rng: Random) -> Event:
        """Of somebody that the warehouse does not know."""
        number = rng.randrange(4)
        if rng.random() < 0.4:
            traits = {"name": f"Name {rng.randrange(9)}", "email": f"s{number}@example.com"}
            return {"type": "identify", "userId": f"stranger-{number}", "traits": traits}
        # A membership that is false, of somebody who was never in anything, makes no customer.
        return _membership(f"stranger-{number}", rng.choice(self.engage.audiences), True)


def _membership(customer_id: str, key: str, member: bool) -> Event:
    personas = {"computation_class": "audience", "computation_key": key}
    return {
        "type": "track",
        "event": "Audience Entered" if member else "Audience Exited",
        "userId": customer_id,
        "properties": {key: member},
        "context": {"personas": personas},
    }


def _meter(event: Event) -> dict[str, Any]:
    page = event["type"] == "page"
    return {
        "uniqueId": event["messageId"],
        "customerId": event["userId"],
        "meterApiName": "page" if page else event["event"],
        "meterValue": 1 if page else event["properties"]["value"],
        "meterTimeInMillis": event["timestamp"],
        "dimensions": {"name": "Home"} if page else {"region": event["properties"]["region"]},
    }
