"""What a comparison found: what a run would do, for its commit and for `syncer diff`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from state import holds
from state.runs import RunTraitRow
from syncer.engage.catalog import Catalog
from syncer.engage.computations import Computations
from syncer.engage.source import Everything, ObservedKey, Scope, WithoutCustomerId
from syncer.sync.decision import Decision
from syncer.sync.first_contact import FirstContact
from syncer.sync.parity import Parity
from syncer.sync.readiness import Mismatch
from syncer.sync.rulings import MentionedCustomers
from syncer.sync.spool import ChangeSpool
from syncer.sync.tally import Applied, Tally
from syncer.sync.warehouse_compare import Baseline, Plan

RunKind = Literal["initial", "incremental", "reconcile", "resync", "adopt"]


@dataclass
class Compared:
    """What a run would do; close it when done."""

    kind: RunKind
    scope: Scope
    catalog: Catalog
    #: the keys of the source that the catalog was made of
    observed: Sequence[ObservedKey]
    tally: Tally
    changes: ChangeSpool
    decision: Decision
    #: members before the run, by trait key
    members: dict[str, int]
    watermark: str | None
    without_id: WithoutCustomerId
    #: the pull need not know yet of a call that came after this (epoch milliseconds)
    horizon: int
    #: the customers of whom a partial pull had a row of a trait with something held or rejected
    mentioned: MentionedCustomers
    #: by trait key, changes that leave and that somebody decided on before
    excused: Mapping[str, int]
    #: what the Public API lists; None if it is not asked
    computations: Computations | None = None
    #: audiences of which Segment counts another number of members
    mismatches: list[Mismatch] = field(default_factory=list)
    #: lines for the user that report no problem
    notices: list[str] = field(default_factory=list)
    #: what Amberflo holds that the state did not put there; None if it was not read
    first_contact: FirstContact | None = None
    #: that the source keeps fingerprints; None if it does not
    plan: Plan | None = None
    #: what the next run may compare by in the warehouse; None if that stays what it was
    baseline: Baseline | None = None
    #: what Amberflo holds beside what a full run would leave there; None if it was not asked for
    parity: Parity | None = None

    @property
    def whole(self) -> bool:
        """Whether all customers were pulled."""
        return isinstance(self.scope, Everything)

    def close(self) -> None:
        self.changes.close()
        self.mentioned.close()
        if self.parity is not None:
            self.parity.close()

    def held(self, applied: Applied) -> dict[str, str]:
        """Return the keys with something held, `holds.DELETED` among them, each with the reason."""
        reasons = dict(self.decision.held)
        if self.decision.deletions is not None:
            reasons[holds.DELETED] = self.decision.deletions
        return {key: reason for key, reason in reasons.items() if key in applied.holds}

    def sizes(self, key: str) -> tuple[int, int]:
        """Return an audience's members before the run and how many of them would leave.

        For `holds.DELETED` these are customers, and how many of them were deleted.
        """
        if key == holds.DELETED:
            return self.tally.known, self.tally.deleted
        sums = self.tally.sums[key]
        return self.members.get(key, 0) + sums.unrecorded, sums.leaving - self.excused.get(key, 0)

    def trait_sums(self, applied: Applied) -> list[RunTraitRow]:
        """Return a row of sums for each trait with rows in the pull, as in `models.RunTrait`."""
        return [
            RunTraitRow(
                key=trait.key,
                trait=trait.name,
                kind=trait.kind,
                pulled=sums.pulled,
                entered=sums.entered,
                exited=sums.exited,
                changed=sums.changed,
                unchanged=sums.unchanged,
                skipped=sums.skipped,
                held=applied.held[trait.key],
                reasons=sums.reasons,
                waiting=sums.leaving if key in self.decision.waiting else 0,
                left_by_itself=applied.left[trait.key],
                hold=applied.holds.get(trait.key),
            )
            for key, sums in self.tally.sums.items()
            if sums.pulled and (trait := self.catalog.by_key[key])
        ]
