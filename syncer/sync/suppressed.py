"""Customers that were forgotten are left out of a pull."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from state.suppression import Forgotten
from syncer.sync.join import GONE, JoinedRow
from syncer.sync.tally import Tally

#: Why a pulled value of a customer is skipped.
REASON = "forgotten"


def without_suppressed(
    pairs: Iterable[JoinedRow], gone: Forgotten, tally: Tally
) -> Iterable[JoinedRow]:
    """The pairs of a comparison less the customers that must not come in; `tally` counts what was
    pulled of them as skipped."""
    return _others(pairs, gone, tally) if gone else pairs


def _others(pairs: Iterable[JoinedRow], gone: Forgotten, tally: Tally) -> Iterator[JoinedRow]:
    for row, known, seen in pairs:
        # Who is erased is not known; only who is about to be is.
        name = known[0] if known is not None else row.customer_id if row is not None else ""
        if name not in (gone if known is None else gone.pending):
            yield row, known, seen
        elif name in gone.doubted and row is not None and row is not GONE:
            tally.returned.append(name)
            yield row, known, seen
        elif row is not None and row is not GONE:
            tally.leave_out(row, REASON)
