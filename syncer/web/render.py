"""Render pages from templates, with filters for numbers, times and values. The home of Jinja."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from syncer.clock import iso
from syncer.json_text import to_json

#: The characters of a request or a response that a page shows.
MAX_TEXT = 4000
#: The media types of static files, by the end of their name.
_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".txt": "text/plain",
    ".svg": "image/svg+xml",
}


def assets() -> dict[str, tuple[bytes, str]]:
    """Return the static files by name: each its bytes and its media type."""
    folder = resources.files("syncer.web") / "static"
    return {
        file.name: (file.read_bytes(), _TYPES["." + file.name.rpartition(".")[2]])
        for file in folder.iterdir()
        if file.is_file()
    }


class Templates:
    """Renders templates; a name without a value is an error."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("syncer.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            number=number, time=time, value=value, span=span, ticks=ticks, cut=cut, day=day,
            field=field,
        )  # fmt: skip
        stamp = hashlib.sha256(b"".join(body for body, _ in assets().values())).hexdigest()[:12]
        self._environment.globals.update(link=link, stamp=stamp)

    def __call__(self, template: str, data: Mapping[str, Any]) -> str:
        return self._environment.get_template(template).render(data)


def link(path: str, **query: object) -> str:
    """Return a URL of ours, without the parameters that are None or empty."""
    present = {name: value for name, value in query.items() if value is not None and value != ""}
    return f"{path}?{urlencode(present)}" if present else path


def number(count: int) -> str:
    return f"{count:,}"


def time(milliseconds: int | None) -> Markup:
    """Format a time to the second; the machine-readable form has milliseconds."""
    if milliseconds is None:
        return Markup('<span class="none">–</span>')
    exact = _exact(milliseconds)
    shown = exact.partition(".")[0].replace("T", " ")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, shown)


def day(milliseconds: int) -> str:
    """Format a time to the minute, for the table of a chart."""
    return _to_the_minute(milliseconds).replace("T", " ")


def field(milliseconds: int | None) -> str:
    """Format a time as the value of a form field."""
    if milliseconds is None:
        return ""
    return _to_the_minute(milliseconds)


def _exact(milliseconds: int) -> str:
    text = iso(milliseconds)
    assert text is not None
    return text


def _to_the_minute(milliseconds: int) -> str:
    return _exact(milliseconds).rpartition(":")[0]


def value(text: str | None) -> Markup:
    """Format a trait's value (JSON); None is absent."""
    if text is None:
        return Markup('<span class="none">absent</span>')
    return Markup("<code>{}</code>").format(cut(text, 200))


def span(seconds: float) -> str:
    """Format seconds in a unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def ticks(text: str) -> Markup:
    """Format a message that has commands in backticks."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def cut(text: str, size: int = MAX_TEXT) -> str:
    return text if len(text) <= size else f"{text[:size]} … ({len(text):,} characters)"


def values(text: str) -> dict[str, str]:
    """Return the values (JSON) of an object (JSON), by name."""
    members = orjson.loads(text)
    return {name: to_json(members[name]) for name in sorted(members)}
