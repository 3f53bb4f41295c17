"""What a list of Amberflo's customers shows: whose records it has, and whether with traits. Pure.

Nobody documents whether lists contain traits (docs/facts/amberflo.md §1.1), so it is found out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from syncer import ids
from syncer.amberflo.codec import Record

NO_TRAITS = "customers come without their traits"
#: If this many customers lack traits that they should have, and none has any, the listing leaves
#: traits out.
ENOUGH = 10


def present(batch: Sequence[Record]) -> dict[str, Record]:
    """Return the customers of a listing that are not deleted, by id.

    Amberflo hides deleted customers; a list may show them all the same. One whose id no database
    can keep is none of ours.
    """
    return {
        customer_id: record
        for record in batch
        if isinstance(customer_id := record.get("customerId"), str)
        and not ids.problem(customer_id)
        and not record.get("deleteTime")
    }


@dataclass
class TraitsShown:
    """Whether a listing shows traits. `bare` counts customers that lack traits they should have."""

    bare: int = 0
    some: bool = False

    def look(self, batch: Sequence[Record], bare: int) -> None:
        """Look at a batch, of which `bare` customers lack traits that they should have."""
        self.bare += bare
        self.some = self.some or any("traits" in record for record in batch)

    @property
    def none(self) -> bool:
        """Whether enough was seen to say that the listing leaves traits out."""
        return self.bare >= ENOUGH and not self.some

    @property
    def none_at_the_end(self) -> bool:
        """The same once all was seen."""
        return self.bare > 0 and not self.some
