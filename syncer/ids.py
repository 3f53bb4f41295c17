"""Ids and keys from outside: which of them every database can store. Pure.

Customers come from a warehouse and from calls, and both name the same customers, so both use this
one rule of what an id is.
"""

from __future__ import annotations

#: Bytes of an id and of a key at most: both together must fit into an index.
MAX_ID, MAX_KEY = 1000, 400

#: The characters that `str.isspace` takes for white space; an id needs another one.
WHITE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)

NO_ID = "no customer id"
LONG_ID = f"customer id longer than {MAX_ID:,} bytes"
ODD_ID = "customer id with characters that a database cannot keep"


def problem(customer_id: str) -> str | None:
    """Return why a text cannot be a customer's id; None if it can."""
    if customer_id.isascii() and len(customer_id) <= MAX_ID and "\0" not in customer_id:
        return NO_ID if not customer_id or customer_id.isspace() else None
    if customer_id.isspace():
        return NO_ID
    if "\0" in customer_id or not is_unicode(customer_id):
        return ODD_ID
    return None if storable(customer_id, MAX_ID) else LONG_ID


def storable(text: str, most: int) -> bool:
    """Return whether every database can store a text as a key.

    It has up to `most` bytes, no NUL and no lone surrogates.
    """
    if len(text) > most or "\0" in text or not is_unicode(text):
        return False
    return text.isascii() or len(text.encode()) <= most


def is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8: it has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cleaned(text: str) -> str:
    """Return a text that every database can store: NUL and lone surrogates become U+FFFD."""
    if not is_unicode(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "\ufffd")
