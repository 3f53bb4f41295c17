"""The filter of a comparison: customers that were forgotten do not come in again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from state.suppression import Forgotten
from syncer.sync.join import GONE, JoinedRow
from syncer.sync.tally import Tally

#: Why a pulled value of a customer is skipped.
REASON = "forgotten"


def without_suppressed(
    rows: Iterable[JoinedRow], suppressed: Forgotten, tally: Tally
) -> Iterable[JoinedRow]:
    """Yield the rows of a comparison less the customers that must not come in.

    `tally` counts what was pulled of them as skipped.
    """
    return _without(rows, suppressed, tally) if suppressed else rows


def _without(rows: Iterable[JoinedRow], suppressed: Forgotten, tally: Tally) -> Iterator[JoinedRow]:
    for row, known, seen in rows:
        # Erased customers have no row in the snapshot; those about to be erased do.
        name = known[0] if known is not None else row.customer_id if row is not None else ""
        if name not in (suppressed if known is None else suppressed.pending):
            yield row, known, seen
        elif name in suppressed.doubted and row is not None and row is not GONE:
            tally.returned.append(name)
            yield row, known, seen
        elif row is not None and row is not GONE:
            tally.skip(row, REASON)
