"""The parity of Engage and Amberflo: what a full run would leave there, and what stands there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from syncer.amberflo.record import Difference
from syncer.sync.findings import Drift, Findings

#: Differences that a trait is shown with, and customers that Engage does not know.
EXAMPLES = 10


@dataclass(frozen=True)
class TraitParity:
    """The customers of one trait, `customerName` or `customerEmail`.

    It is `equal` there, or has another value (`differ`), or is `missing` there, or is there and
    Engage does not say it (`unexpected`). `examples` are some of the last three.
    """

    trait: str
    equal: int
    differ: int
    missing: int
    unexpected: int
    examples: list[Drift]


@dataclass(frozen=True)
class Spelling:
    """A name at Amberflo that is one of ours but for its spelling; `customers` have it there.

    It is not ours: nothing here writes it or takes it away.
    """

    trait: str
    key: str
    there: str
    customers: int


@dataclass
class Parity:
    """What was compared: equal + differ + missing customers. Close it when done.

    `findings` has the customers that differ, and those that Engage does not know, as `extra`.
    `by_list` of those that differ were compared by the list alone, and `recent` of them changed at
    Amberflo after the pull, which may know of it later.
    """

    findings: Findings = field(default_factory=Findings)
    equal: int = 0
    by_list: int = 0
    recent: int = 0
    equal_traits: Counter[str] = field(default_factory=Counter)
    spellings: list[Spelling] = field(default_factory=list)
    _examples: dict[str, list[Drift]] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """The number of customers that Amberflo does not have."""
        return self.findings.counts()["missing"]

    @property
    def differ(self) -> int:
        """The number of customers that Amberflo has, and not as they should be."""
        return self.findings.counts()["drifted"]

    @property
    def unknown(self) -> int:
        """The number of customers at Amberflo that Engage does not know."""
        return self.findings.counts()["extra"]

    @property
    def at_amberflo(self) -> int:
        """The number of customers that Amberflo has."""
        return self.equal + self.differ + self.unknown

    @property
    def compared(self) -> int:
        """The number of customers that a full run would leave at Amberflo."""
        return self.equal + self.differ + self.missing

    @property
    def good(self) -> bool:
        """Whether customers were compared and none differs."""
        return 0 < self.equal == self.compared

    def put_equal(self, names: Iterable[str]) -> None:
        """Count a customer that is equal in these traits and fields."""
        self.equal += 1
        self.equal_traits.update(names)

    def put_different(
        self, customer_id: str, drifts: Collection[Difference], names: Iterable[str], missing: bool
    ) -> None:
        """Note a customer that differs; `names` are all that were compared of it."""
        self.findings.put(customer_id, drifts, missing=missing)
        drifted = {drift.trait for drift in drifts}
        self.equal_traits.update(name for name in names if name not in drifted)
        for drift in drifts:
            examples = self._examples.setdefault(drift.trait, [])
            if len(examples) < EXAMPLES:
                examples.append(Drift(customer_id, *drift))

    def traits(self) -> list[TraitParity]:
        """Return the sums of every trait that was compared, by name."""
        drifted, traits = self.findings.drifted_traits(), []
        for name in sorted({*self.equal_traits, *drifted}):
            customers, missing, unexpected = drifted.get(name, (0, 0, 0))
            traits.append(
                TraitParity(
                    name,
                    self.equal_traits[name],
                    customers - missing - unexpected,
                    missing,
                    unexpected,
                    self._examples.get(name, []),
                )
            )
        return traits

    def close(self) -> None:
        self.findings.close()
