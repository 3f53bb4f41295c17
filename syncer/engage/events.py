"""No pull: memberships and computed traits come by calls alone, through Segment's signed webhook.

A run then reads nothing of Engage. It takes up the keys that calls brought, delivers what is due,
and compares what calls said with Amberflo.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from syncer.engage.source import (
    Absence,
    Counted,
    ObservedKey,
    PulledCustomer,
    Scope,
    SourceRow,
    Survey,
    WithoutCustomerId,
)

PLACE = "calls by webhook"
#: What `check` says that such a set-up cannot see.
UNSEEN = (
    "there is no pull: what no call says is not seen, such as who left while calls could not come, "
    "who was a member before the webhook was connected, merges, and who was deleted in Segment",
    "runs send what is due and compare what calls said with Amberflo; a new audience counts from "
    "the next run on (`syncer sync` makes one), and its calls wait until then",
)
#: Before every call: a pull that says nothing knows of none.
_BEFORE = datetime(2000, 1, 1, tzinfo=UTC)


class Called(NamedTuple):
    """What calls brought: the keys, and how many calls of Engage were taken."""

    keys: tuple[ObservedKey, ...] = ()
    calls: int = 0


@dataclass(frozen=True)
class Events:
    """The source; `called` returns what calls brought until now."""

    called: Callable[[], Called]

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[EventsPull]:
        """Open a pull that has no customer."""
        yield EventsPull(self.called())

    def survey(self) -> Survey:
        """Return the keys that calls brought, with the members that they made."""
        keys = self.called().keys
        return Survey(PLACE, keys, {key.key: key.words for key in keys}, advice=UNSEEN)


@dataclass(frozen=True)
class EventsPull:
    """A pull that says nothing of anybody; `source.Pull` describes the methods."""

    called: Called

    def watermark(self) -> str | None:
        """Return a time that is before every call, and another one after each call that came.

        So no call counts as known to the pull, and it shows whether calls still come.
        """
        moment = _BEFORE + timedelta(milliseconds=self.called.calls)
        return moment.isoformat(timespec="milliseconds")

    def absence(self) -> Absence:
        return Absence(frozenset(), deletions=False)

    def observed(self) -> list[ObservedKey]:
        return list(self.called.keys)

    def count(self, keys: Collection[str]) -> Counted:
        return Counted(0, 0)

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        yield from ()

    def rows_of(self, key: str) -> list[SourceRow]:
        return []

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        return set()

    def without_customer_id(self, keys: Collection[str]) -> WithoutCustomerId:
        return WithoutCustomerId(0, {})

    def profiles_without_customer_id(self, keys: Collection[str]) -> Iterator[str]:
        return iter(())
