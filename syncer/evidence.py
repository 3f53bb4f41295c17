"""The evidence of one trait of one customer: from Engage's rows to what Amberflo holds now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from state import failures, hold_evidence, holds, identify_traits, runs, snapshot
from state.db.database import Database
from state.failures import FailureRow
from state.history import past
from state.history.listings import Entry
from state.holds import Hold, Kept
from state.removable import removable
from state.runs import RunRow
from state.snapshot import CustomerRow, TraitRow
from syncer.amberflo.record import traits_of
from syncer.app import App
from syncer.delivery.desired import differences
from syncer.engage.catalog import Catalog
from syncer.engage.source import OnlyCustomers, SourceRow
from syncer.errors import AmberfloError, ConfigError, SourceError
from syncer.json_text import to_json
from syncer.sync.trait_selection import known_trait

#: Where a customer's record has what Engage calls `name` and `email`.
FIELDS = {"name": "customerName", "email": "customerEmail"}


class Held(NamedTuple):
    """A hold with the change of the customer that it keeps back, or kept back once."""

    hold: Hold
    change: Kept
    in_force: bool


@dataclass(frozen=True)
class InSource:
    """What the source has now: its `rows`, and the value that the newest one reads as.

    `problem` says why it cannot be asked.
    """

    rows: Sequence[SourceRow] = ()
    value: Any = None
    problem: str | None = None


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

    `customer` is None where the state does not know it, `trait` where no pull brought the key (it
    comes from identify calls). `value` is what Amberflo should hold; None is absent. `change` is
    the one that is in force, `run` the one that made it, `approved` the hold that was let through
    by it. `holds` keep or kept the trait back. `failure` says why Amberflo refuses the customer.
    """

    customer_id: str
    key: str
    customer: CustomerRow | None
    trait: TraitRow | None
    value: Any
    change: Entry | None
    run: RunRow | None
    holds: Sequence[Held]
    failure: FailureRow | None
    source: InSource
    amberflo: AtAmberflo

    @property
    def name(self) -> str:
        """The name at Amberflo."""
        return self.trait.trait if self.trait else self.change.trait if self.change else self.key

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


def gather(app: App, database: Database, customer_id: str, key: str) -> Evidence:
    """Gather the evidence of a key of a customer.

    The source and Amberflo are asked now; what cannot be asked says so.
    """
    with database.read() as connection:
        customer = snapshot.get(connection, customer_id)
        trait = snapshot.trait(connection, key)
        change = past.in_force(connection, customer_id, key)
        run = None if change is None or change.run is None else runs.get(connection, change.run)
        name = trait.trait if trait else key
        field = FIELDS.get(name) if trait is None else None
        kept = [Held(*held) for held in hold_evidence.of_customer(connection, customer_id, name)]
        refused = [
            row
            for row in failures.page(connection, limit=100, customer_id=customer_id)
            if row.kind == failures.CUSTOMER
        ]
        owned = removable(connection, [customer])[customer_id] if customer else frozenset()
    return Evidence(
        customer_id=customer_id,
        key=key,
        customer=customer,
        trait=trait,
        value=_present(customer, trait, name),
        change=change,
        run=run,
        holds=kept,
        failure=refused[0] if refused else None,
        source=_ask_source(app, customer_id, key, trait),
        amberflo=_ask_amberflo(app, database, customer_id, customer, field or name, owned),
    )


def _present(customer: CustomerRow | None, trait: TraitRow | None, name: str) -> Any:
    """Return the value that a customer should have at Amberflo under a name; None is absent."""
    if customer is None:
        return None
    if trait is None and name in FIELDS:
        return getattr(customer, name)
    traits: Mapping[str, Any] = orjson.loads(customer.traits)
    return traits.get(name, identify_traits.values(customer.identify_traits).get(name))


def _ask_source(app: App, customer_id: str, key: str, trait: TraitRow | None) -> InSource:
    try:
        with app.source().pull(OnlyCustomers((customer_id,))) as pull:
            rows = pull.rows_of(key)
    except (SourceError, ConfigError) as error:
        return InSource(problem=str(error))
    newest = next((row.value for row in rows if row.counts), None)
    return InSource(rows, newest if trait is None else _read(trait, newest))


def _read(trait: TraitRow, stored: Any) -> Any:
    """Return what a stored value says, as a run reads it; None where it says nothing."""
    reading = Catalog([known_trait(trait)], {}, []).read(to_json([trait.key]), to_json([stored]))
    return reading.traits.get(trait.trait)


def _ask_amberflo(
    app: App,
    database: Database,
    customer_id: str,
    customer: CustomerRow | None,
    name: str,
    owned: frozenset[str],
) -> AtAmberflo:
    try:
        record = app.read_customer(database, customer_id)
    except AmberfloError as error:
        return AtAmberflo(problem=str(error))
    if record is None:
        return AtAmberflo(right=customer is None)
    value = (record if name in FIELDS.values() else traits_of(record)).get(name)
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
