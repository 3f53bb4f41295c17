"""The result of a verification: counts, and lists as long as there are customers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from syncer.sync.findings import Findings


@dataclass
class Verification:
    """What was found: checked = equal + pending + missing + drifted customers. Close it when done.

    `checked` counts the customers that Amberflo acknowledged at least once, and those that it never
    got from us and that hold under our names what they should not. `pending` customers have
    something to be sent, so they are not judged. `traits` counts customers by trait, equal and
    drifted. `problems` are lines for the user.
    """

    findings: Findings = field(default_factory=Findings)
    checked: int = 0
    equal: int = 0
    pending: int = 0
    #: customers that could not be read: they are not checked
    unread: int = 0
    equal_traits: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """The number of customers that were sent and that Amberflo does not have now."""
        return self.findings.counts()["missing"]

    @property
    def drifted(self) -> int:
        """The number of customers that Amberflo has, and not as they should be."""
        return self.findings.counts()["drifted"]

    @property
    def extra(self) -> int:
        """The number of customers at Amberflo that we never sent, and that hold nothing wrong.

        They hold nothing under our names that they should not.
        """
        return self.findings.counts()["extra"]

    @property
    def repaired(self) -> int:
        """The number of missing and drifted customers that were sent again and are right now."""
        return self.findings.counts()["repaired"]

    @property
    def good(self) -> bool:
        """Whether Amberflo holds what it should, now."""
        return self.missing + self.drifted == self.repaired and not self.unread

    def traits(self) -> list[tuple[str, int, int]]:
        """Return (trait, customers where it is equal, customers where it drifted), by name."""
        drifted = self.findings.drifted_traits()
        names = sorted({*self.equal_traits, *drifted})
        return [
            (name, self.equal_traits[name], drifted[name].customers if name in drifted else 0)
            for name in names
        ]

    def close(self) -> None:
        self.findings.close()
