"""What people and systems leave round a value that they give: a secret's newline, a byte order
mark, blanks of all kinds, quotes that a shell or an editor kept. And what no URL has."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "‘": "’", "«": "»"}


def bare(text: str) -> str:
    """The value without what is round it."""
    found = _without_blanks(text)
    while len(found) > 1 and _QUOTES.get(found[0]) == found[-1]:
        found = _without_blanks(found[1:-1])
    return found


def _without_blanks(text: str) -> str:
    begin, end = 0, len(text)
    while begin < end and _is_blank(text[begin]):
        begin += 1
    while end > begin and _is_blank(text[end - 1]):
        end -= 1
    return text[begin:end]


def _is_blank(character: str) -> bool:
    """Whether nobody sees it: white space, control and format characters (U+FEFF, U+200B)."""
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def strange(text: str) -> str | None:
    """What no header can hold, as words: the first character that is not printable ASCII."""
    for place, character in enumerate(text, 1):
        if not (character.isascii() and character.isprintable()):
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            return f"character {place} is {name}"
    return None


def has_address(url: str) -> bool:
    """Whether a URL names a host that there can be, and no port or one that there can be."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if port == 0 or parts.netloc.endswith(":"):
        return False
    with suppress(ValueError):
        return bool(ip_address(host))
    try:
        return bool(host.encode("idna")) and len(host) <= 253 and ":" not in host
    except UnicodeError:  # a label that is empty or too long
        return False
