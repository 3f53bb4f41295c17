"""The changes that a comparison finds: of a trait, and of a customer. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple

from syncer.engage.computations import AUDIENCE, Kind
from syncer.engage.values import Value

#: The source of a change that is against what Amberflo has (see `change_sources.SOURCES`).
AMBERFLO, DELETED, ADOPTED = "amberflo", "deleted", "adopted"
#: What was decided on a change before this run, or by it: see state/holds.py.
Ruling = Literal["approved", "rejected"]


class TraitChange(NamedTuple):
    """The change of one trait of one customer; None stands for absent.

    `observed_at` is Segment's time in epoch milliseconds, None for a row that vanished. `source` is
    as in `change_sources.SOURCES`: if it is "amberflo", `before` is what Amberflo has, and
    `recorded` is what the snapshot has instead.
    """

    key: str
    trait: str
    before: Value | None
    after: Value | None
    observed_at: int | None
    source: str | None = None
    recorded: Value | None = None
    ruling: Ruling | None = None

    @property
    def was(self) -> Value | None:
        """What the snapshot has before."""
        return self.recorded if self.source == AMBERFLO else self.before


class CustomerChange(NamedTuple):
    """What changes of a customer.

    `traits` are the traits of Engage that Amberflo should hold from now on. `name` and `email` are
    set if they change ("": taken away), each with Segment's time of it (epoch milliseconds).
    `deleted` says that Segment has no identifier of the customer any more, and `ruling` what people
    decided on that.
    """

    customer_id: str
    known: bool
    traits: dict[str, Value]
    name: str | None
    email: str | None
    changes: list[TraitChange]
    name_at: int = 0
    email_at: int = 0
    deleted: bool = False
    ruling: Ruling | None = None
    #: a run that compares all has pulled it
    compared: bool = False


def leaves(change: TraitChange, kind: Kind) -> bool:
    """Return whether a member leaves, or a computed trait loses its value, as in `Sums.leaving`."""
    if kind == AUDIENCE:
        return change.before is True and change.after is not True
    return change.after is None


#: What a value or a change takes beside its text.
_ONE = 300


def size_of(change: CustomerChange) -> int:
    """Return about the bytes that a change takes."""
    texts = 0
    for value in change.traits.values():
        if value.__class__ is str or value.__class__ is list:
            texts += len(value)
    return _ONE * (len(change.traits) + len(change.changes)) + 2 * texts
