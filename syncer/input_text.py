"""Text that people and systems paste: what surrounds it, and what no header or URL can have.

A secret arrives with a newline, a byte order mark, blanks of all kinds, or the quotes that a shell
or an editor kept.
"""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from ipaddress import ip_address
from urllib.parse import urlsplit

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "‘": "’", "«": "»"}


def unwrapped(text: str) -> str:
    """Return the text without the blanks and the pairs of quotes around it."""
    inner = _without_blanks(text)
    while len(inner) > 1 and _QUOTES.get(inner[0]) == inner[-1]:
        inner = _without_blanks(inner[1:-1])
    return inner


def _without_blanks(text: str) -> str:
    begin, end = 0, len(text)
    while begin < end and _is_blank(text[begin]):
        begin += 1
    while end > begin and _is_blank(text[end - 1]):
        end -= 1
    return text[begin:end]


def _is_blank(character: str) -> bool:
    """Return whether a character is invisible: white space, a control or format character.

    U+FEFF (byte order mark) and U+200B (zero width space) are format characters.
    """
    return character.isspace() or unicodedata.category(character) in ("Cc", "Cf")


def unprintable(text: str) -> str | None:
    """Return the place and name of the first character that no HTTP header can hold.

    Headers hold printable ASCII; None when all of the text is.
    """
    for place, character in enumerate(text, 1):
        if not (character.isascii() and character.isprintable()):
            name = unicodedata.name(character, f"U+{ord(character):04X}")
            return f"character {place} is {name}"
    return None


def has_valid_host(url: str) -> bool:
    """Return whether a URL names a host that can exist and, if it names a port, a port that can."""
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
