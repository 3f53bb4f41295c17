"""Trait names: from a Segment key to the name the trait has at Amberflo."""

from __future__ import annotations

import re

_READY = re.compile(r"[a-z0-9_]+")
_WORD = re.compile(r"[A-Z0-9]+[a-z0-9]*|[a-z0-9]+")


def snake_case(text: str) -> str:
    """Segment's warehouse rule (docs/facts/segment.md §3.1): ASCII words, lower-cased.

    A word is a run of capitals and digits followed by small letters and digits; everything else
    separates. "Order Completed Last 30days" → `order_completed_last_30days`; "CStringRef" →
    `cstring_ref`. A text without an ASCII letter or digit gives "".
    """
    return "_".join(_WORD.findall(text)).lower()


def trait_name(key: str) -> str:
    """The name of a key at Amberflo: the key itself when it is `[a-z0-9_]+` already (journey keys
    keep their double underscore), else its snake_case; "" when nothing of it can be kept."""
    return key if _READY.fullmatch(key) else snake_case(key)
