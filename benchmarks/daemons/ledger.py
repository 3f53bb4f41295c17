"""An Amberflo that costs little (benchmarks/target.py), and keeps a ledger of what came when.

It has the customers that were written to it, refuses a POST of one that is there, and its pages are
empty. GET /ledger says what came since the last time that it was asked, GET /total how many
customers were written and records ingested since then.
"""

from __future__ import annotations

import re
import time
import urllib.request
import zlib
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson

from benchmarks.target import Target, answer_with, main

_UNIQUE_ID = re.compile(rb'"uniqueId":"([^"]+)"')
_THERE = b'HTTP/1.1 400 Bad Request\r\ncontent-length: 31\r\n\r\n{"errorMessage":"it is there"}\n'


@dataclass
class Ledger:
    """What came: when requests about customers came (seconds), and how often each was written.

    `records` counts the meter records by their uniqueId.
    """

    moments: list[float] = field(default_factory=list)
    customers: Counter[str] = field(default_factory=Counter)
    records: Counter[bytes] = field(default_factory=Counter)

    @property
    def document(self) -> dict[str, Any]:
        """The ledger as JSON; of customers and records how many came how often."""
        return {
            "moments": self.moments,
            "customers": sorted(Counter(self.customers.values()).items()),
            "records": sorted(Counter(self.records.values()).items()),
        }


class Recorder(Target):
    """A connection whose requests go into the one ledger of the process."""

    ledger = Ledger()
    held: dict[str, bytes] = {}  # noqa: RUF012 - of all connections

    def read(self, path: bytes) -> bytes:
        if path == b"/total":
            return answer_with(b"%d" % (len(self.ledger.customers) + len(self.ledger.records)))
        if path == b"/ledger":
            document, Recorder.ledger = self.ledger.document, Ledger()
            return answer_with(orjson.dumps(document))
        self.ledger.moments.append(time.time())
        customer_id = unquote(path.partition(b"?customerId=")[2].decode())
        return (
            answer_with(self.held[customer_id]) if customer_id in self.held else super().read(path)
        )

    def taken(self, what: bytes, body: bytes) -> bytes:
        if what == b"POST /ingest":
            self.ledger.records.update(_UNIQUE_ID.findall(zlib.decompress(body, wbits=31)))
            return super().taken(what, body)
        self.ledger.moments.append(time.time())
        customer_id = orjson.loads(body)["customerId"]
        if what.startswith(b"POST") and customer_id in self.held:
            return _THERE
        self.ledger.customers[customer_id] += 1
        self.held[customer_id] = body
        return super().taken(what, body)


def most_in(moments: list[float], seconds: float) -> int:
    """Return the most requests that came in any time of so many seconds."""
    moments = sorted(moments)
    return max(
        (bisect_left(moments, since + seconds) - at for at, since in enumerate(moments)), default=0
    )


def read(url: str) -> dict[str, Any]:
    """Return the document of the ledger at a URL, which begins anew."""
    document: dict[str, Any] = orjson.loads(urllib.request.urlopen(f"{url}/ledger").read())
    return document


def total(url: str) -> int:
    """Return how many customers and records the ledger at a URL has."""
    return int(urllib.request.urlopen(f"{url}/total").read())


if __name__ == "__main__":
    main(Recorder)
