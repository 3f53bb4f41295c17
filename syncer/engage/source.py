"""The seam between Engage and the sync: what every way to pull must give."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class PulledCustomer(NamedTuple):
    """All that the source says of one customer. The texts are JSON arrays of the same length, one
    place a trait row; a key may stand twice while a merge is under way, then the newest counts.

    They stay text because most customers did not change and their text was read before.
    """

    customer_id: str
    keys: str
    values: str
    times: str
    #: [[key, value, time], …] of the traits `name` and `email`
    profile: str


@dataclass(frozen=True)
class ObservedKey:
    """A trait key in the source, with how its values look over the whole population."""

    key: str
    rows: int
    #: values that read true/false/t/f, or 1.0/0.0
    words: int
    #: values that read 1/0
    digits: int
    #: values that are neither of these nor null
    others: int


@dataclass(frozen=True)
class Counted:
    """What the source itself counts in the snapshot that is being pulled."""

    customers: int
    rows: int


@dataclass(frozen=True)
class WithoutCustomerId:
    """Profiles that have traits and no customer id: how many, and trait rows of theirs by key."""

    profiles: int
    rows: dict[str, int]


@dataclass(frozen=True)
class Everything:
    """Pull all customers."""


@dataclass(frozen=True)
class ChangedSince:
    """Pull, in full, the customers with a row that was loaded at or after `watermark`."""

    watermark: str


@dataclass(frozen=True)
class OnlyCustomers:
    """Pull the named customers: a statement's worth, not a population."""

    customer_ids: tuple[str, ...]


Scope = Everything | ChangedSince | OnlyCustomers


class Pull(Protocol):
    """One consistent snapshot of the source. Raises `SourceError` for all that goes wrong."""

    def watermark(self) -> str | None:
        """ISO-8601 time of the newest row; None where the source has none."""

    def observed(self) -> list[ObservedKey]:
        """Every trait key of the whole source, whatever the scope."""

    def count(self, keys: Collection[str]) -> Counted:
        """What `customers(keys)` will give."""

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        """The customers in scope with their rows of `keys`, in UTF-8 byte order of the id."""

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        """Those of these customers of whom there is an identifier, whatever the scope: the others
        were deleted. To be asked when `customers` was read."""

    def without_customer_id(self, keys: Collection[str]) -> WithoutCustomerId:
        """The profiles in scope that cannot be customers, counted."""

    def profiles_without_customer_id(self, keys: Collection[str]) -> Iterator[str]:
        """Their Segment ids."""


class Source(Protocol):
    """A way to pull."""

    def pull(self, scope: Scope) -> AbstractContextManager[Pull]:
        """Open a snapshot; leaving the block closes it."""

    def check(self) -> str:
        """One line about what is there; `SourceError` when it cannot be pulled."""
