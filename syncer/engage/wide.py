"""Wide tables: a row a user, a column a trait. Which columns are Segment's own, and which are keys.

Pure. Segment's warehouses name a column by the snake_case of the key (docs/facts/segment.md §1.4).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from syncer.engage.trait_names import snake_case

#: Columns that Segment, or a tool that copies tables, adds to those of the traits.
_OWN = frozenset(
    {
        *("id", "user_id", "anonymous_id", "group_id", "message_id", "event", "event_text", "type"),
        *("received_at", "sent_at", "timestamp", "original_timestamp", "loaded_at"),
        *("uuid", "uuid_ts", "seq", "segment_id", "canonical_segment_id", "channel", "version"),
    }
)
_OWN_BEGINNINGS = ("context_", "_fivetran_", "_airbyte_", "_dlt_", "_sdc_")


def trait_columns(columns: Iterable[str], named: Collection[str] = ()) -> dict[str, str]:
    """Return the key of each column that is a trait.

    A column is called as its key, unless one of the `named` keys (those that the config names
    exactly) gives the name of the column: `j_o_first__step` is in the column `j_o_first_step`. A
    column in capitals alone is one of a database that has no small letters. A column of Segment's
    own is a trait if it is named: there may be one that is called `channel`.
    """
    by_column = {snake_case(key): key for key in named} | {key: key for key in named}

    def key_of(column: str) -> str:
        plain = column.lower() if column.isupper() else column
        return by_column.get(column) or by_column.get(plain) or plain

    return {
        column: key for column in columns if (key := key_of(column)) in named or not is_own(column)
    }


def is_own(column: str) -> bool:
    """Return whether a column is no trait."""
    name = column.lower()
    return name in _OWN or name.startswith(_OWN_BEGINNINGS)
