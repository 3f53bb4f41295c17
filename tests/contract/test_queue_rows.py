"""The rows of the inbox are zstd frames: those of older programs, and such as cannot be read."""

from __future__ import annotations

import sys
from base64 import b64decode

import pytest
from sqlalchemy import insert

from state import queue
from state.db.database import Database
from state.db.tables import INBOX
from state.queue import Accepted, InboxRow

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CONTENT = b'track 5 2 r\n{}batch 7 12 \n{"batch":[]}'
#: The same, as a program with the library `zstandard` (0.25, level 1) wrote it.
OLDER = b64decode("KLUv/SAmMQEAdHJhY2sgNSAyIHIKe31iYXRjaCA3IDEyIAp7ImJhdGNoIjpbXX0=")


def row_of(calls: Database, body: bytes) -> list[InboxRow]:
    """The requests that a row of the inbox holds."""
    with calls.write() as connection:
        connection.execute(insert(INBOX).values(body=body, events=2, received_at=3, key="web"))
    with calls.read() as connection:
        return queue.unprocessed(connection, 10)


def test_a_row_of_an_older_program_is_read(calls: Database) -> None:
    first, second = row_of(calls, OLDER)
    assert first[2:] == ("track", b"{}", 5, "web", "r")
    assert second[2:] == ("batch", b'{"batch":[]}', 7, "web", "")


def test_a_row_is_written_as_ever(calls: Database) -> None:
    rows = [
        Accepted("track", b"{}", 1, 5, "web", "r"),
        Accepted("batch", b'{"batch":[]}', 1, 7, "web", ""),
    ]
    with calls.write() as connection:
        queue.accept(connection, rows)
        (body,) = connection.execute(INBOX.select().with_only_columns(INBOX.c.body)).one()
    assert zstd.decompress(bytes(body)) == CONTENT
    assert zstd.get_frame_info(bytes(body)).decompressed_size == len(CONTENT)


def endless() -> bytes:
    """A frame that does not say how much it holds: 64 MB."""
    compressor = zstd.ZstdCompressor()
    return b"".join([*(compressor.compress(bytes(1 << 20)) for _ in range(64)), compressor.flush()])


def modest() -> bytes:
    """A frame that says that it holds 10 bytes, and holds more."""
    assert OLDER[5] == len(CONTENT)
    return OLDER[:5] + bytes([10]) + OLDER[6:]


@pytest.mark.parametrize(
    "body", [b"", b"garbage", OLDER[:-3], OLDER[:5], endless(), modest()], ids=range(6)
)
def test_a_row_that_is_no_whole_frame_is_handed_over_as_it_is(calls: Database, body: bytes) -> None:
    (row,) = row_of(calls, body)
    assert row[2:] == ("", body, 3, "web", "")
