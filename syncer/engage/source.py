"""The interface between a source of Engage's data and the sync: what every source provides."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable


class PulledCustomer(NamedTuple):
    """All that the source says of one customer.

    The texts are JSON arrays of the same length, with one element for each trait row. A key may
    occur twice during a merge; then its newest row counts. They stay text because most customers
    did not change, and the catalog remembers what it read.
    """

    customer_id: str
    keys: str
    values: str
    times: str
    #: [[key, value, time], …] of the traits `name` and `email`
    profile: str


class SourceRow(NamedTuple):
    """A row of one trait of one customer, as it is in the source now.

    `profile` is the Segment id that the row has, `merged_into` the profile that it belongs to since
    a merge (None: none). `value` is as it is stored, for `Catalog.read`. `observed_at` is Segment's
    time of it and `loaded_at` when it was loaded, both in epoch milliseconds, None where the source
    does not say. Of several rows one `counts`: the newest.
    """

    profile: str
    merged_into: str | None
    value: Any
    observed_at: int | None
    loaded_at: int | None
    counts: bool = False


@dataclass(frozen=True)
class ObservedKey:
    """A trait key in the source, and the forms of its values over the whole population."""

    key: str
    rows: int
    #: the number of values that read true/false/t/f, or 1.0/0.0
    words: int
    #: the number of values that read 1/0
    digits: int
    #: the number of values that are none of these, and not null
    others: int

    @property
    def values(self) -> int:
        """The number of values that are not null."""
        return self.words + self.digits + self.others


@dataclass(frozen=True)
class Survey:
    """What a source has, counted in bounded time.

    `place` names the source. `share` is the part of the rows that was read: the numbers are
    estimated from them where it is less than 1. A source that cannot be counted in time has
    `share` 0 and no keys.
    """

    place: str
    keys: tuple[ObservedKey, ...] = ()
    #: the number of values that read true, by key
    members: Mapping[str, int] = field(default_factory=dict)
    share: float = 1.0
    #: lines for the user: what is ambiguous, and what would make pulls faster
    advice: tuple[str, ...] = ()
    #: what to say after the place, instead of or beside the numbers
    note: str = ""

    @property
    def message(self) -> str:
        """One line on where the source is and how much it has."""
        rows, keys = sum(key.rows for key in self.keys), len(self.keys)
        if not self.share:
            return f"{self.place}: {self.note or 'it can be read; too many rows to count'}"
        if self.share == 1:
            note = f"; {self.note}" if self.note else ""
            return f"{self.place}: {rows:,} trait rows of {keys:,} keys{note}"
        return (
            f"{self.place}: about {rows:,} trait rows of {keys:,} keys, estimated from "
            f"{self.share:.2%} of them"
        )


@dataclass(frozen=True)
class Counted:
    """The numbers that the source itself counts in the snapshot of a pull."""

    customers: int
    rows: int


@dataclass(frozen=True)
class WithoutCustomerId:
    """The number of profiles with traits and without a customer id, and of their rows by key."""

    profiles: int
    rows: dict[str, int]


@dataclass(frozen=True)
class Absence:
    """What it says that a pull of everything lacks something (docs/design.md §3.11).

    `keys` are those of which a missing row says that the value is gone (None: all keys); of any
    other key only a row says something. `deletions` says whether a customer without an identifier
    was deleted in Segment. `unread` returns those of some customers of whom the pull does not know
    what Engage has: they are left as they are.
    """

    keys: frozenset[str] | None = None
    deletions: bool = True
    unread: Callable[[Collection[str]], Collection[str]] = lambda customer_ids: ()

    def ends(self, key: str) -> bool:
        """Return whether a missing row says that the value of this key is gone."""
        return self.keys is None or key in self.keys


@dataclass(frozen=True)
class Everything:
    """Pull all customers."""


@dataclass(frozen=True)
class ChangedSince:
    """Pull in full the customers with a row that was loaded at or after `watermark` (ISO-8601)."""

    watermark: str


@dataclass(frozen=True)
class OnlyCustomers:
    """Pull the named customers: a few, not a population."""

    customer_ids: tuple[str, ...]


Scope = Everything | ChangedSince | OnlyCustomers


class Pull(Protocol):
    """One consistent snapshot of the source; every method raises `SourceError` if it fails."""

    def watermark(self) -> str | None:
        """Return the ISO-8601 time of the newest row; None if the source has none.

        A pull of what changed returns its own watermark where no row is newer, one of named
        customers None.
        """

    def absence(self) -> Absence:
        """Return what it says that a pull of everything lacks something."""

    def observed(self) -> list[ObservedKey]:
        """Return the trait keys of the rows that are new to the scope, at least.

        For everything these are all keys of the source. A pull of what changed tells those of the
        rows that were loaded since, and one of named customers need tell none: what the last full
        pull saw is known to the caller.
        """

    def count(self, keys: Collection[str]) -> Counted:
        """Return the numbers of customers and rows that `customers(keys)` will yield."""

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        """Yield the customers in scope with their rows of `keys`, in UTF-8 byte order of the id."""

    def rows_of(self, key: str) -> list[SourceRow]:
        """Return the rows of a key of the customers in scope, the oldest first: the evidence."""

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        """Return those of these customers that have an identifier, whatever the scope.

        The others were deleted. Call it after `customers` was read to its end.
        """

    def without_customer_id(self, keys: Collection[str]) -> WithoutCustomerId:
        """Return the numbers of profiles in scope without a customer id, and of their rows."""

    def profiles_without_customer_id(self, keys: Collection[str]) -> Iterator[str]:
        """Yield the Segment ids of those profiles."""


class Source(Protocol):
    """A way to pull from Engage."""

    def pull(self, scope: Scope) -> AbstractContextManager[Pull]:
        """Open a snapshot; leaving the block closes it."""

    def survey(self) -> Survey:
        """Return what the source has, in bounded time; raise `SourceError` if no pull can work."""


class Fingerprints(NamedTuple):
    """Fingerprints that a source keeps: the name of their table, its customers and trait rows."""

    table: str
    customers: int
    rows: int


class Unchanged(NamedTuple):
    """The customers with trait rows that are not given out: how many, and how many rows.

    `keys` has the number of these customers for each trait key.
    """

    customers: int
    rows: int
    keys: dict[str, int]


class PushDown(Protocol):
    """What a source compares itself, within a pull of everything (docs/explanation/push-down.md).

    Every method raises `SourceError` if it fails.
    """

    def make(self, name: str) -> None:
        """Make a place for fingerprints under a name; where that fails, the pull is at its end."""

    def keep(self, name: str, keys: Collection[str]) -> Fingerprints:
        """Keep the fingerprints of all customers, by their rows of these keys, in a place."""

    def fault(self, kept: Fingerprints) -> str | None:
        """Return why fingerprints cannot be compared with; None if they can."""

    def choose(self, before: Fingerprints, now: Fingerprints, wanted: Iterable[str]) -> Counted:
        """Choose who is given out: who differs, is new or is gone, and who is `wanted`.

        Return how many of them have rows, and how many rows.
        """

    def given(self, keys: Collection[str]) -> Generator[tuple[str, PulledCustomer | None]]:
        """Yield who was chosen, in UTF-8 byte order of the id; None for who has no row."""

    def unchanged(self, now: Fingerprints, keys: Collection[str]) -> Unchanged:
        """Count the customers that were not chosen."""

    def drop(self, names: Collection[str]) -> Mapping[str, str]:
        """Drop fingerprints that nobody compares with any more, if they are still there.

        Return why some stay all the same, by name.
        """

    def finish(self) -> None:
        """Let what was kept and dropped last: the last call of a pull."""


@runtime_checkable
class ComparingSource(Source, Protocol):
    """A source that may keep fingerprints, and compare by them."""

    def comparing(self) -> AbstractContextManager[tuple[Pull, PushDown]]:
        """Open a snapshot of everything in which the source compares."""

    def new_table(self) -> str:
        """Return a name that no fingerprints have."""

    def try_scratch(self) -> str:
        """Try what the login needs; return a line on it, or raise `SourceError`."""
