"""What a handler gets and gives: a visit, and a page or where to go on; and what may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

#: Rows of one page of a list.
ROWS = 50
#: The largest number that a database takes.
LARGEST = 2**63 - 1


class Wrong(Exception):
    """What was asked for cannot be done as it was asked; one line says why."""

    status, title = 400, "That cannot be read"


class Missing(Wrong):
    """What was asked for is not there."""

    status, title = 404, "Not found"


class NotNow(Wrong):
    """What was asked for does not fit how things are."""

    status, title = 409, "Not now"


@dataclass(frozen=True)
class Page:
    """A template and what it shows. `part`: of a page that is there already."""

    template: str
    data: Mapping[str, Any]
    status: int = 200
    part: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class GoTo:
    """Go on there, after a POST."""

    url: str


@dataclass(frozen=True)
class Nothing:
    """What the asking page shows is right still."""


Answer = Page | GoTo | Nothing


@dataclass(frozen=True)
class Visit:
    """A request that may be answered. `which` is the number in its path, if it has one."""

    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    form_token: str
    which: str = ""

    @property
    def run(self) -> int:
        """The number of a run in the path."""
        if not (self.which.isascii() and self.which.isdigit()):
            raise Missing(f"there is no run {self.which[:50]!r}")
        if len(self.which) > 100:
            raise Wrong(f"the number of a run has {len(self.which):,} digits; none has so many")
        return int(self.which)

    def text(self, name: str) -> str:
        """A parameter of the URL, "" when it is not there."""
        return _text(name, self.query.get(name, ""))

    def posted(self, name: str) -> str:
        """A field of the form that must be there."""
        found = _text(name, self.form.get(name, ""))
        if not found:
            raise Wrong(f"the form has no {name}")
        return found

    def number(self, name: str) -> int | None:
        """A whole number from the URL; None when it is not there."""
        return whole(name, self.text(name))

    def one_of(self, name: str, *choices: str) -> str:
        """One of some words, the first when none is there."""
        found = self.text(name) or choices[0]
        if found not in choices:
            raise Wrong(f"{name} is {found[:50]!r}; it can be {', '.join(choices)}")
        return found

    def moment(self, name: str) -> int | None:
        """Epoch milliseconds of a time in the URL; None when it is not there."""
        text = self.text(name)
        if not text:
            return None
        try:
            found = datetime.fromisoformat(text)
            if found.tzinfo is None:
                found = found.replace(tzinfo=UTC)
            return round(found.astimezone(UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            raise Wrong(
                f"{name} is {text[:50]!r}, which is no time; write for example 2026-11-01 or "
                "2026-11-01T12:00"
            ) from None


def whole(name: str, text: str) -> int | None:
    """A whole number, None for an empty text."""
    if not text:
        return None
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()):
        raise Wrong(f"{name} is {text[:50]!r}; it must be a whole number")
    if len(digits) > len(str(LARGEST)) or int(digits) > LARGEST:
        raise Wrong(f"{name} is {text[:50]!r}; it can be a whole number up to {LARGEST}")
    return int(digits)


def _text(name: str, text: str) -> str:
    if "\0" in text:
        raise Wrong(f"{name} has a character that no id has")
    return text
