"""Ids and keys from outside: which of them any database can keep, and the text that it can. Pure.

Customers come from a warehouse and from calls, and both are the same customers: so what an id is,
is said here, once.
"""

from __future__ import annotations

#: Ids and keys of traits stand together in indexes, which have room for so many bytes.
MAX_ID, MAX_KEY = 1000, 400

#: All that `str.isspace` takes for white space: an id of nothing else is none.
WHITE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)

NO_ID = "no customer id"
LONG_ID = f"customer id longer than {MAX_ID:,} bytes"
ODD_ID = "customer id with characters that a database cannot keep"


def problem(customer_id: str) -> str | None:
    """Why a text can be no customer's id; None where it can."""
    if customer_id.isascii() and len(customer_id) <= MAX_ID and "\0" not in customer_id:
        return NO_ID if not customer_id or customer_id.isspace() else None
    if customer_id.isspace():
        return NO_ID
    if "\0" in customer_id or not is_unicode(customer_id):
        return ODD_ID
    return None if storable(customer_id, MAX_ID) else LONG_ID


def storable(text: str, most: int) -> bool:
    """Whether any database can keep a text as a key: up to so many bytes, no NUL, real Unicode."""
    if len(text) > most or "\0" in text or not is_unicode(text):
        return False
    return text.isascii() or len(text.encode()) <= most


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8, so has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cleaned(text: str) -> str:
    """Text that any database can keep: NUL and lone surrogates become U+FFFD."""
    if not is_unicode(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")
