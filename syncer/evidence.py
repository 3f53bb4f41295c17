"""The evidence of one trait of one customer: from Engage's rows to what Amberflo holds now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import orjson

from state import (
    failures,
    hold_evidence,
    holds,
    identify_traits,
    pending_calls,
    runs,
    snapshot,
)
from state.change_sources import RENAMED
from state.db.database import Database
from state.failures import FailureRow
from state.history import past
from state.history.listings import Entry
from state.holds import Hold, Kept
from state.pending_calls import EarlyCall
from state.removable import removable
from state.runs import RunRow
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.record import alike, is_protected, traits_of
from syncer.app import App
from syncer.delivery.desired import differences
from syncer.engage.catalog import Catalog
from syncer.engage.computations import AUDIENCE
from syncer.engage.source import OnlyCustomers, SourceRow
from syncer.errors import AmberfloError, ConfigError, SourceError
from syncer.event_times import Stamp, read_stamps
from syncer.json_text import to_json
from syncer.sync.trait_selection import known_trait

#: Where a customer's record has what Engage calls `name` and `email`.
FIELDS = {"name": "customerName", "email": "customerEmail"}


class Held(NamedTuple):
    """A hold with the change of the customer that it keeps back, or kept back once."""

    hold: Hold
    change: Kept
    in_force: bool


class Standing(Enum):
    """What a key is to us."""

    OURS = "a trait of Engage that is ours"
    PROFILE = "the customer's name or email"
    IDENTIFIED = "a trait of identify calls"
    RELEASED = "it was ours, and was released"
    RENAMED = "it gave its name to another key"
    PROTECTED = "the config protects its name: it is never ours"
    FOREIGN = "no run and no call made it ours"


@dataclass(frozen=True)
class InSource:
    """What the source has now: its `rows`, and the value that the newest one reads as.

    `skipped` says why that one cannot be read. `identified` says whether the customer has an
    identifier left; without one Segment deleted it. `problem` says why it cannot be asked.
    """

    rows: Sequence[SourceRow] = ()
    value: Any = None
    skipped: str | None = None
    identified: bool | None = None
    problem: str | None = None

    @property
    def newest(self) -> SourceRow | None:
        """The row that counts."""
        return next((row for row in self.rows if row.counts), None)


@dataclass(frozen=True)
class AtAmberflo:
    """What Amberflo holds now; `right` says whether it is what it should hold.

    `known` says whether Amberflo has the customer at all. `problem` says why it cannot be asked.
    """

    known: bool = False
    value: Any = None
    right: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class Evidence:
    """All that is known of a trait of a customer.

    `customer` is None where the state does not know it, `trait` where no pull brought the key.
    `name` is the name at Amberflo. `value` is what Amberflo should hold; None is absent. `change`
    is the one that is in force, `run` the one that made it, `stamp` the call that said the value,
    while no pull could know better. `waiting` is a call that waits until a pull knows the key.
    `holds` keep or kept the trait back. `failure` says why Amberflo does not take the customer.
    """

    customer_id: str
    key: str
    name: str
    standing: Standing
    customer: CustomerRow | None
    trait: TraitRow | None
    value: Any
    change: Entry | None
    run: RunRow | None
    stamp: Stamp | None
    waiting: EarlyCall | None
    holds: Sequence[Held]
    failure: FailureRow | None
    source: InSource
    amberflo: AtAmberflo

    @property
    def any(self) -> bool:
        """Whether anybody knows anything of it: the state, the source or Amberflo."""
        known = (self.trait, self.change, self.waiting, self.value, self.amberflo.value)
        return self.standing in (Standing.PROFILE, Standing.PROTECTED) or bool(
            self.source.rows or any(fact is not None for fact in known)
        )

    @property
    def approved(self) -> Hold | None:
        """The hold that somebody approved, so that the change could be made."""
        made = None if self.change is None else self.change.run
        return next(
            (
                held.hold
                for held in reversed(self.holds)
                if held.hold.decision == holds.APPROVED
                and made is not None
                and held.hold.decided_run == made
            ),
            None,
        )

    @property
    def pulled_next(self) -> Any:
        """What a run that compares everything would make of what the source has now.

        A membership that is null or without a row is false where it was one; what cannot be read
        leaves the value as it is (`sync/diff.py`).
        """
        source = self.source
        if source.skipped is not None:
            return self.value
        if source.value is None and self.trait is not None and self.trait.kind == AUDIENCE:
            return False if isinstance(self.value, bool) else None
        return source.value


def gather(app: App, database: Database, customer_id: str, key: str) -> Evidence:
    """Gather the evidence of a key of a customer.

    The source and Amberflo are asked now; what cannot be asked says so.
    """
    protected = app.config.amberflo.protected
    with database.read() as connection:
        customer = snapshot.get(connection, customer_id)
        trait = snapshot.trait(connection, key)
        change = past.in_force(connection, customer_id, key)
        run = None if change is None or change.run is None else runs.get(connection, change.run)
        name = trait.trait if trait else change.trait if change else FIELDS.get(key, key)
        standing = _standing(key, name, trait, change, protected)
        kept = [Held(*held) for held in hold_evidence.of_customer(connection, customer_id, name)]
        refused = [
            row
            for row in failures.page(connection, limit=100, customer_id=customer_id)
            if row.kind == failures.CUSTOMER
        ]
        owned = removable(connection, [customer])[customer_id] if customer else frozenset()
        waiting = pending_calls.get(connection, key, customer_id)
    stamps = read_stamps(customer.event_times if customer else None)
    stamp = stamps.get(key if standing is Standing.PROFILE else name)
    if stamp is not None and not stamp.received:
        stamp = None  # a pull has said it since
    value = _present(customer, key, name, standing)
    if standing is Standing.PROFILE and (
        change is None or stamp is None or not _says(change, value)
    ):
        change = run = None  # the history has no name or email that a run pulled
    return Evidence(
        customer_id=customer_id,
        key=key,
        name=name,
        standing=standing,
        customer=customer,
        trait=trait,
        value=value,
        change=change,
        run=run,
        stamp=stamp,
        waiting=waiting,
        holds=kept,
        failure=refused[0] if refused else None,
        source=_ask_source(app, customer_id, key, trait),
        amberflo=_ask_amberflo(app, database, customer_id, customer, name, standing, owned),
    )


def _standing(
    key: str, name: str, trait: TraitRow | None, change: Entry | None, protected: tuple[str, ...]
) -> Standing:
    """Return what a key is to us, by what the state knows of it."""
    if key in FIELDS:
        return Standing.PROFILE
    if is_protected(name, protected):
        return Standing.PROTECTED
    if trait is not None:
        return Standing.OURS if trait.released_at is None else Standing.RELEASED
    if change is None:
        return Standing.FOREIGN
    return Standing.RENAMED if change.source == RENAMED else Standing.IDENTIFIED


def _says(change: Entry, value: Any) -> bool:
    return change.after is not None and bool(orjson.loads(change.after) == value)


def _present(customer: CustomerRow | None, key: str, name: str, standing: Standing) -> Any:
    """Return the value that a customer should have at Amberflo by us; None is absent."""
    if customer is None or standing is Standing.PROTECTED:
        return None
    if standing is Standing.PROFILE:
        return getattr(customer, key) or None
    identified = identify_traits.values(customer.identify_traits).get(name)
    if standing is Standing.RELEASED and identified is None:
        return orjson.loads(customer.given_back or "{}").get(name)
    traits: Mapping[str, Any] = orjson.loads(customer.traits)
    return traits.get(name, identified)


def _ask_source(app: App, customer_id: str, key: str, trait: TraitRow | None) -> InSource:
    try:
        with app.source().pull(OnlyCustomers((customer_id,))) as pull:
            rows = pull.rows_of(key)
            identified = bool(pull.identified([customer_id]))
    except (SourceError, ConfigError) as error:
        return InSource(problem=str(error))
    stored = next((row.value for row in rows if row.counts), None)
    value, skipped = (stored, None) if trait is None else _read(trait, stored)
    return InSource(rows, value, skipped, identified)


def _read(trait: TraitRow, stored: Any) -> tuple[Any, str | None]:
    """Return what a stored value says, as a run reads it, or why it cannot be read."""
    reading = Catalog([known_trait(trait)], {}, []).read(to_json([trait.key]), to_json([stored]))
    skipped = next((reason for _, reason in reading.skipped), None)
    return reading.traits.get(trait.trait), skipped


def _ask_amberflo(
    app: App,
    database: Database,
    customer_id: str,
    customer: CustomerRow | None,
    name: str,
    standing: Standing,
    owned: frozenset[str],
) -> AtAmberflo:
    try:
        record = app.read_customer(database, customer_id)
    except AmberfloError as error:
        return AtAmberflo(problem=str(error))
    if record is None:
        return AtAmberflo(right=customer is None or not customer.acked_rev)
    value = (record if name in FIELDS.values() else traits_of(record)).get(name)
    given_back = orjson.loads(customer.given_back or "{}") if customer else {}
    if standing is Standing.RELEASED and name in given_back:
        return AtAmberflo(True, value, alike(given_back[name], value))
    settings = app.config.amberflo
    wrong = customer is not None and any(
        difference.trait == name
        for difference in differences(
            record,
            customer,
            owned,
            as_strings=settings.trait_values == "string",
            protected=settings.protected,
        )
    )
    return AtAmberflo(True, value, not wrong)
