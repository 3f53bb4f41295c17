"""The seals: a hash chain over the history, so that what is edited later shows.

Every run seals, in the transaction that commits it, all changes that are not sealed yet: its own
and those that calls made since. docs/audit.md gives the same rules to third parties:

- A list is packed as compact JSON in UTF-8: `[1,"é",null]`.
- The leaf hash of a change is SHA-256 over the packed list of its `LEAF` columns; of the last two,
  `source` and `via`, those at the end that are null are left out, as in what was sealed before
  there were any. `delivered_at` is not among them: it is filled in later.
- The digest of a seal is SHA-256 over the leaf hashes (32 bytes each) of all changes with an id
  from `first_id` to `last_id`, in order of the id. These ranges follow one another without a gap.
- The hash of a seal is SHA-256 over the packed list of its `LINK` columns, the first of which is
  the hash of the seal before it. So the newest hash, the head, vouches for all before it.

Hashes are written in hex. Whoever can rewrite the whole database can rewrite the whole chain; a
head that was kept elsewhere shows that too.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Connection, Row, insert, select

from state.db import metadata
from state.db.tables import CHANGE, SEAL

#: The fields of a change that its leaf hash covers, in this order. What is hashed and exported is
#: for third parties, so a field keeps its name though its column has another: see LEAF_COLUMNS.
LEAF = (
    *("id", "run", "customer_id", "rev", "key", "trait", "before", "after", "step"),
    *("observed_at", "recorded_at", "salt", "source", "via"),
)
#: The columns of a seal that its hash covers.
LINK = (
    *("previous", "number", "kind", "run", "first_id", "last_id", "changes", "digest", "until"),
    "sealed_at",
)
#: The columns of these fields: `step` is the column `delta`.
LEAF_COLUMNS = [CHANGE.c["delta" if name == "step" else name] for name in LEAF]
#: Kinds of a seal (see tables.Seal).
CHANGES, COMPACTION, COMPACTED, ERASURE = "changes", "compaction", "compacted", "erasure"
#: What the first seal has for the hash before it.
GENESIS = "0" * 64
#: Changes of one seal; a run with more makes several. Memory stays flat, and what is wrong near.
SEGMENT = 10_000
#: Rows that a cursor hands over at a time.
CHUNK = 1000
#: Bytes of each leaf hash that a seal keeps, to name the change where its digest is wrong.
MARK = 2

_RECORDED = LEAF.index("recorded_at")


class Link(NamedTuple):
    """A seal without its marks; see `tables.Seal`."""

    number: int
    kind: str
    run: int | None
    first_id: int
    last_id: int
    changes: int
    digest: str
    until: int | None
    previous: str
    hash: str
    sealed_at: int


LINKS = [SEAL.c[name] for name in Link._fields]


class Sum:
    """Counts and hashes changes, added in order of their id."""

    def __init__(self) -> None:
        self.changes = 0
        self.until: int | None = None
        self.marks = bytearray()
        self._digest = sha256()

    def add(self, leaves: Sequence[bytes]) -> None:
        """Add leaf hashes."""
        self.changes += len(leaves)
        self._digest.update(b"".join(leaves))
        self.marks += b"".join([leaf[:MARK] for leaf in leaves])

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def leaf(change: Sequence[Any]) -> bytes:
    """Return the leaf hash of a change: a tuple of its `LEAF` fields."""
    if change[-1] is None:
        change = change[:-2] if change[-2] is None else change[:-1]
    return packed(change)


def packed(values: Sequence[Any]) -> bytes:
    """Return the hash of a list of values."""
    return sha256(orjson.dumps(values)).digest()


def hash_of(link: Link) -> str:
    """Return the hash that a seal must have."""
    return packed([getattr(link, name) for name in LINK]).hex()


def salts(count: int) -> list[str]:
    """Return random texts of 96 bits, one for each of `count` changes."""
    texts = base64.b64encode(os.urandom(12 * count)).decode()
    return [texts[start : start + 16] for start in range(0, len(texts), 16)]


def read(
    connection: Connection, after: int, until: int | None = None, *only: ColumnElement[bool]
) -> Iterator[Sequence[Row[Any]]]:
    """Yield changes with an id in (after, until] in order, many at a time.

    A row has the change's `LEAF` fields, then `delivered_at`.
    """
    columns = [*LEAF_COLUMNS, CHANGE.c.delivered_at]
    statement = select(*columns).where(CHANGE.c.id > after, *only).order_by(CHANGE.c.id)
    if until is not None:
        statement = statement.where(CHANGE.c.id <= until)
    with connection.execute(statement, execution_options={"yield_per": CHUNK}) as result:
        yield from result.partitions()


# Sealing


def seal(connection: Connection, run: int | None, now: int) -> str | None:
    """Seal all changes that are not sealed yet; return the head.

    A run seals even when there are none, so that the chain proves the run. The caller's transaction
    writes alone (`Database.write`), as one that adds changes does: a seal must see all changes with
    a lower id than the newest that it sees.
    """
    last = after = sealed_to(connection)
    sealed, total = 0, Sum()
    for rows in read(connection, after):
        total.add([leaf(row[:-1]) for row in rows])
        newest = max(row[_RECORDED] for row in rows)
        total.until = newest if total.until is None else max(newest, total.until)
        last = rows[-1][0]
        if total.changes >= SEGMENT:
            append(connection, CHANGES, total, after + 1, last, now, run=run)
            after, sealed, total = last, sealed + total.changes, Sum()
    if total.changes or (run is not None and not sealed):
        append(connection, CHANGES, total, after + 1, last, now, run=run)
    return head(connection)


def append(
    connection: Connection,
    kind: str,
    total: Sum | Link,
    first_id: int,
    last_id: int,
    now: int,
    *,
    run: int | None = None,
) -> Link:
    """Append a seal to the chain, over a sum of changes or, once more, over another seal."""
    last = newest(connection)
    link = Link(
        number=last.number + 1 if last else 1,
        kind=kind,
        run=run,
        first_id=first_id,
        last_id=last_id,
        changes=total.changes,
        digest=total.digest,
        until=total.until,
        previous=last.hash if last else GENESIS,
        hash="",
        sealed_at=now,
    )
    link = link._replace(hash=hash_of(link))
    marks = bytes(total.marks) if kind == CHANGES and isinstance(total, Sum) else b""
    connection.execute(insert(SEAL).values(**link._asdict(), marks=marks or None))
    metadata.put(connection, "head", f"{link.number} {link.hash}")
    return link


# Looking


def newest(connection: Connection, *kinds: str, run: int | None = None) -> Link | None:
    """Return the newest seal: of all, of some kinds, or of a run."""
    statement = select(*LINKS).order_by(SEAL.c.number.desc()).limit(1)
    if kinds:
        statement = statement.where(SEAL.c.kind.in_(kinds))
    if run is not None:
        statement = statement.where(SEAL.c.run == run)
    row = connection.execute(statement).first()
    return Link._make(row) if row else None


def head(connection: Connection, run: int | None = None) -> str | None:
    """Return the hash of the newest seal (of a run); None where there is none."""
    link = newest(connection, run=run)
    return link.hash if link else None


def sealed_to(connection: Connection) -> int:
    """Return the id up to which all changes are sealed."""
    link = newest(connection, CHANGES)
    return link.last_id if link else 0
