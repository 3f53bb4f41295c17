"""Shows trouble with Amberflo on the progress of a run, and keeps it in the state."""

from __future__ import annotations

from dataclasses import dataclass, field

from syncer.amberflo.silence import Trouble
from syncer.process.problem import ProblemRecord
from syncer.progress import Progress

#: The part of the service whose trouble this is; the worker reports it, too.
PART = "customers"


@dataclass(frozen=True)
class TroubleReport:
    """By itself it only shows it; `record` keeps it."""

    progress: Progress
    record: ProblemRecord = field(default_factory=lambda: ProblemRecord(PART))

    def __call__(self, trouble: Trouble | None) -> None:
        """Report trouble while it lasts, and None when something gets through."""
        self.progress.trouble(None if trouble is None else trouble.line)
        self.record(None if trouble is None else trouble.text)

    def ended(self, problem: str | None) -> None:
        """Report why the work ended early, or with None that it did not."""
        self.record(problem)
        self.record.settle()
