"""What a handler takes and returns: a request and a response; and the errors that it raises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

#: Rows of one page of a list.
ROWS = 50
#: The largest integer that a database column holds.
LARGEST = 2**63 - 1


class BadRequest(Exception):
    """The request is wrong; `str(error)` is one line that says why."""

    status, title = 400, "Bad request"


class NotFound(BadRequest):
    """The requested thing does not exist."""

    status, title = 404, "Not found"


class Conflict(BadRequest):
    """The request is not possible in the present state."""

    status, title = 409, "Not possible now"


@dataclass(frozen=True)
class Page:
    """A template and its data. `part` says that it replaces a part of a page in the browser."""

    template: str
    data: Mapping[str, Any]
    status: int = 200
    part: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Redirect:
    """Where the browser goes after a POST."""

    url: str


@dataclass(frozen=True)
class NoContent:
    """The page in the browser is up to date."""


Response = Page | Redirect | NoContent


@dataclass(frozen=True)
class Request:
    """A request that passed all checks. `which` is the number in its path, if it has one."""

    path: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    form_token: str
    which: str = ""

    @property
    def run(self) -> int:
        """The number of the run in the path."""
        if not (self.which.isascii() and self.which.isdigit()):
            raise NotFound(f"there is no run {self.which[:50]!r}")
        if len(self.which) > 100:
            raise BadRequest(f"a run's number of {len(self.which):,} digits is too long")
        return int(self.which)

    def text(self, name: str) -> str:
        """Return a parameter of the URL, "" if it is absent."""
        return checked(name, self.query.get(name, ""))

    def posted(self, name: str) -> str:
        """Return a field that the form must have."""
        text = checked(name, self.form.get(name, ""))
        if not text:
            raise BadRequest(f"the form has no {name}")
        return text

    def number(self, name: str) -> int | None:
        """Return a whole number from the URL; None if it is absent."""
        return whole(name, self.text(name))

    def one_of(self, name: str, *choices: str) -> str:
        """Return the choice that the URL names; the first if it names none."""
        choice = self.text(name) or choices[0]
        if choice not in choices:
            raise BadRequest(f"{name} is {choice[:50]!r}; it must be one of {', '.join(choices)}")
        return choice

    def moment(self, name: str) -> int | None:
        """Return a time from the URL in epoch milliseconds; None if it is absent."""
        text = self.text(name)
        if not text:
            return None
        try:
            time = datetime.fromisoformat(text)
            if time.tzinfo is None:
                time = time.replace(tzinfo=UTC)
            return round(time.astimezone(UTC).timestamp() * 1000)
        except (ValueError, OverflowError):
            raise BadRequest(
                f"{name} is {text[:50]!r}, which is not a time; write for example 2026-11-01 or "
                "2026-11-01T12:00"
            ) from None


def whole(name: str, text: str) -> int | None:
    """Read a whole number; None for an empty text."""
    if not text:
        return None
    digits = text.lstrip("0") or "0"
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(f"{name} is {text[:50]!r}; it must be a whole number")
    if len(digits) > len(str(LARGEST)) or int(digits) > LARGEST:
        raise BadRequest(f"{name} is {text[:50]!r}; it must be at most {LARGEST}")
    return int(digits)


def checked(name: str, text: str) -> str:
    """Return a text of a form or a URL; raise `BadRequest` if no database can keep it."""
    if "\0" in text:
        raise BadRequest(f"{name} has a NUL character")
    return text
