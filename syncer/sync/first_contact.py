"""The first contact: values at Amberflo under names of ours that this state did not put there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from syncer.chunks import CHUNK
from syncer.engage.catalog import Catalog
from syncer.sync.join import GONE, DestinationState, JoinedRow
from syncer.sync.owned_traits import EngageTraits, OwnedTraits, engage_traits

#: Customers that a trait is shown with.
EXAMPLES = 10


class Example(NamedTuple):
    """A customer whose value at Amberflo is not what Engage says; None is absent."""

    customer_id: str
    found: Any
    expected: Any


@dataclass
class TraitFirstContact:
    """The customers of Engage with a value at Amberflo that the state did not put there, by trait.

    `found` counts them, `differ` those of them whose value is not what Engage says; `examples` are
    some of these.
    """

    trait: str
    found: int = 0
    differ: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass
class FirstContact:
    """What a full compare takes over from Amberflo or corrects there, by trait."""

    #: `Destination.before`, through the run's own connection
    before: Callable[[Collection[str]], Mapping[str, DestinationState]]
    catalog: Catalog
    ours: OwnedTraits
    #: the customers that Amberflo shows and the state does not know, in byte order of the id,
    unknown_ids: Callable[[], Iterator[str]]
    #: and how many they are
    unknown: int = 0
    #: one line if this state seems older than what Amberflo acknowledged
    notice: str | None = None
    traits: dict[str, TraitFirstContact] = field(default_factory=dict)
    #: whether this account acknowledged nothing to the state
    new_account: bool = False
    #: takes the customers that the pull has, Amberflo shows and the state does not know
    note_in_engage: Callable[[Collection[str]], None] = lambda customer_ids: None
    #: lists the customers of whom Amberflo may have something else than the state believes
    doubtful: Callable[[], Iterator[str]] = lambda: iter(())

    def noting(self, rows: Iterable[JoinedRow]) -> Iterator[JoinedRow]:
        """Yield the same rows of a full compare, and count where Amberflo differs from the state.

        Engage says nothing of a customer that is not in the pull.
        """
        in_engage: list[str] = []
        for row, known, remote in rows:
            if remote is not None:
                engage = EngageTraits({})
                if row is not None and row is not GONE:
                    engage = engage_traits(self.catalog, row)
                    if known is None:
                        in_engage.append(row[0])
                customer_id = known[0] if known is not None else row[0] if row is not None else ""
                self.note(customer_id, remote, engage, orjson.loads(known[1]) if known else {})
            yield row, known, remote
            if len(in_engage) >= CHUNK:
                self.note_in_engage(in_engage)
                in_engage.clear()
        self.note_in_engage(in_engage)

    def note(
        self,
        customer_id: str,
        remote: DestinationState,
        engage: EngageTraits,
        put_there: Mapping[str, Any],
    ) -> None:
        """Count a customer with other values at Amberflo than the state believes.

        `engage` is what Engage says of it, `put_there` are the values that the state put there.
        """
        for name in self.ours.names(remote.traits):
            value = remote.traits[name]
            is_ours = name in put_there and self.ours.right(name, value, put_there)
            if value is None or is_ours or name in engage.unreadable:
                continue
            trait = self.traits.setdefault(name, TraitFirstContact(name))
            trait.found += 1
            if not self.ours.right(name, value, engage.traits):
                trait.differ += 1
                if len(trait.examples) < EXAMPLES:
                    expected = self.ours.expected(name, value, engage.traits)
                    trait.examples.append(Example(customer_id, value, expected))

    def by_name(self) -> list[TraitFirstContact]:
        """Return the traits in order of their names."""
        return [self.traits[name] for name in sorted(self.traits)]
