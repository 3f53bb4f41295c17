"""Trait names: from a Segment key to the name the trait has at Amberflo."""

from __future__ import annotations

import re

_READY = re.compile(r"[a-z0-9_]+")
_WORD = re.compile(r"[A-Z0-9]+[a-z0-9]*|[a-z0-9]+")


def snake_case(text: str) -> str:
    """Return a text by Segment's warehouse rule (docs/facts/segment.md §3.1).

    It is the text's ASCII words in small letters, joined with `_`. A word is a run of capitals and
    digits followed by small letters and digits; everything else separates words.
    "Order Completed Last 30days" becomes `order_completed_last_30days`, "CStringRef" becomes
    `cstring_ref`. A text without an ASCII letter or digit becomes "".
    """
    return "_".join(_WORD.findall(text)).lower()


def trait_name(key: str) -> str:
    """Return the name of a key at Amberflo.

    That is the key itself if it is `[a-z0-9_]+` already (keys of journeys keep their double
    underscore), otherwise its snake_case; "" if nothing of the key can be kept.
    """
    return key if _READY.fullmatch(key) else snake_case(key)
