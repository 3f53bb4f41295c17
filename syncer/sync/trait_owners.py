"""Trait names at Amberflo that change hands when a run finds other keys in Engage."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import orjson
from sqlalchemy import Connection

from state import identify_traits, snapshot
from state.change_sources import IDENTIFY
from state.db.batches import ROWS
from state.history.record import ChangeRow, add_changes
from syncer.engage.catalog import KnownTrait
from syncer.json_text import to_json_or_none


def rename_traits(
    connection: Connection, renamed: Mapping[str, KnownTrait], run: int, now: int
) -> None:
    """Record that keys gave their names to other keys: `renamed` maps the old key to the new trait.

    The history gets two rows for each customer that has the trait. Amberflo has the value already.
    """
    for old, trait in renamed.items():
        after = ""
        while holders := snapshot.with_trait(connection, trait.name, after, ROWS):
            rows, delivered_at = [], {}
            for customer in holders:
                customer_id = customer.customer_id
                value = to_json_or_none(orjson.loads(customer.traits)[trait.name])
                delivered = customer.acked_rev == customer.rev
                delivered_at[customer_id] = customer.acked_at if delivered else None
                for key, was, is_now in ((old, value, None), (trait.key, None, value)):
                    rows.append(
                        ChangeRow(customer_id, key, trait.name, was, is_now, now, "renamed")
                    )
            add_changes(connection, rows, run, now, delivered_at=delivered_at)
            after = holders[-1].customer_id


def take_from_calls(connection: Connection, names: Collection[str], run: int, now: int) -> None:
    """Take the trait names that become Engage's from the clients that set them by identify calls.

    The values go here, with a row of the history for each customer, and at Amberflo, unless
    somebody else wrote another value there.
    """
    for name in set(names) - snapshot.owned(connection):
        after = ""
        while customers := snapshot.with_identify_trait(connection, name, after, ROWS):
            rows, changed = [], []
            for customer in customers:
                traits = identify_traits.load(customer.identify_traits)
                trait = traits.get(name)
                if trait is None:
                    continue
                traits[name] = trait.says(None, now)
                changed.append(customer._replace(identify_traits=identify_traits.dump(traits)))
                if trait.value is not None:
                    was = to_json_or_none(trait.value)
                    rows.append(
                        ChangeRow(
                            customer.customer_id, name, name, was, None, now, IDENTIFY, delta=0
                        )
                    )
            snapshot.update_customers(connection, changed, now, run)
            add_changes(connection, rows, run, now)
            after = customers[-1].customer_id
