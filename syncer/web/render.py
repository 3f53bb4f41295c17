"""Pages from templates: how numbers, times and values are written. The one home of Jinja."""

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

#: Characters of a request or an answer that are shown.
CUT = 4000
#: What is served beside the pages: the media type by the end of the name.
_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".txt": "text/plain",
    ".svg": "image/svg+xml",
}


def assets() -> dict[str, tuple[bytes, str]]:
    """The files beside the pages, with their media types, by name."""
    folder = resources.files("syncer.web") / "static"
    return {
        one.name: (one.read_bytes(), _TYPES["." + one.name.rpartition(".")[2]])
        for one in folder.iterdir()
        if one.is_file()
    }


class Templates:
    """Renders; what a template names must be there."""

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
    """A URL of ours; what is None or empty is left out."""
    given = {name: one for name, one in query.items() if one is not None and one != ""}
    return f"{path}?{urlencode(given)}" if given else path


def number(count: int) -> str:
    return f"{count:,}"


def time(milliseconds: int | None) -> Markup:
    """A moment to the second; the machine-readable one has milliseconds."""
    if milliseconds is None:
        return Markup('<span class="none">–</span>')
    exact = _exact(milliseconds)
    shown = exact.partition(".")[0].replace("T", " ")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(exact, exact, shown)


def day(milliseconds: int) -> str:
    """A moment to the minute, for the table of a chart."""
    return _to_the_minute(milliseconds).replace("T", " ")


def field(milliseconds: int | None) -> str:
    """A moment as the value of a form's field."""
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
    """A trait's value (JSON), or that it is absent."""
    if text is None:
        return Markup('<span class="none">absent</span>')
    return Markup("<code>{}</code>").format(cut(text, 200))


def span(seconds: float) -> str:
    """A length of time in the unit that fits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def ticks(text: str) -> Markup:
    """A message whose commands stand in backticks."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def cut(text: str, size: int = CUT) -> str:
    return text if len(text) <= size else f"{text[:size]} … ({len(text):,} characters)"


def values(text: str) -> dict[str, str]:
    """The values (JSON) of an object (JSON), by name."""
    found = orjson.loads(text)
    return {name: orjson.dumps(found[name]).decode() for name in sorted(found)}
