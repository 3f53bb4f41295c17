"""Make text from outside safe to show: control characters are escaped, as Python writes them.

They could steer a terminal or reverse a line. All printing and logging goes through here.
"""

from __future__ import annotations

import re

#: Control characters (except line feed and tab), those that set the direction of text, separators
#: of lines and paragraphs, and halves of characters, which no terminal can display.
_CONTROLS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff"
)
_OF_A_LINE, _OF_LINES = re.compile(rf"[\n\t{_CONTROLS}]"), re.compile(f"[{_CONTROLS}]")


def shrinking(members: int, leaving: int) -> str:
    """Say how an audience shrinks, such as "5,999 → 3,378 members (−44 %)"; "" if it does not."""
    if not (0 < leaving <= members):
        return ""
    share = round(100 * leaving / members)
    return f"{members:,} → {members - leaving:,} members (−{share} %)"


def visible(text: str) -> str:
    r"""Escape a line: ESC becomes \x1b, a line break \n, U+202E \u202e."""
    return _OF_A_LINE.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """Escape a text of several lines; line breaks and tabs stay."""
    return _OF_LINES.sub(_escaped, text)


def visible_json(document: str) -> str:
    """Escape a JSON document; its meaning stays the same."""
    return _OF_LINES.sub(lambda match: f"\\u{ord(match[0]):04x}", document)


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
