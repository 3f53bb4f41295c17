"""How a run ended, for who asked for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from state.runs import RunRow
from syncer.delivery.customers import Delivery
from syncer.sync.parity import Parity
from syncer.sync.readiness import Mismatch


@dataclass
class Result:
    """How a run ended. `problems` are lines for the user; without any, the run is good."""

    run: int
    kind: str
    state: str
    held: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = field(default_factory=Delivery)
    problems: list[str] = field(default_factory=list)
    #: trait keys whose leaving changes wait for Segment, with the reason
    waiting: dict[str, str] = field(default_factory=dict)
    #: audiences of which Segment counts another number of members
    mismatches: list[Mismatch] = field(default_factory=list)
    #: lines for the user that report no problem
    notices: list[str] = field(default_factory=list)
    #: the run as it was when it ended; others may deliver what it left
    record: RunRow | None = None
    #: how Amberflo compares with Engage, for a run that adopts; the caller closes it
    parity: Parity | None = None
