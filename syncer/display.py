"""Text from outside as it may be shown: what would steer a terminal or turn a line round stands
there escaped, as Python writes it. Whoever prints or logs, does it through here."""

from __future__ import annotations

import re

#: Control characters (but for line feed and tab), those that say in which direction text runs, the
#: separators of lines and paragraphs, and halves of characters, which no terminal can be sent.
_CONTROLS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff"
)
_OF_A_LINE, _OF_LINES = re.compile(rf"[\n\t{_CONTROLS}]"), re.compile(f"[{_CONTROLS}]")


def visible(text: str) -> str:
    r"""A line: ESC becomes \x1b, a line break \n, U+202E \u202e."""
    return _OF_A_LINE.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """The same of a text of several lines, which stay lines."""
    return _OF_LINES.sub(_escaped, text)


def visible_json(document: str) -> str:
    """The same of a JSON document, which means the same afterwards."""
    return _OF_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
