"""Keeps in the state what keeps a run from its work: the source, or Amberflo."""

from __future__ import annotations

from dataclasses import dataclass

from state.db.database import Database
from syncer.delivery import trouble
from syncer.errors import AmberfloError, SourceError
from syncer.process.problem import ProblemRecord

#: The part of the service whose problem it is that nothing can be pulled.
SOURCE = "source"


@dataclass(frozen=True)
class RunProblems:
    """The records of the two parts that a run depends on."""

    source: ProblemRecord
    customers: ProblemRecord

    @classmethod
    def on(cls, database: Database | None) -> RunProblems:
        """Return the records on a database; without one nothing is kept."""
        return cls(ProblemRecord(SOURCE, database), ProblemRecord(trouble.PART, database))

    def pulled(self) -> None:
        """Note that the source gave all that was asked."""
        self.source(None)
        self.source.settle()

    def ended_by(self, error: BaseException) -> None:
        """Note the error that ends the run, if it is of one of the two parts."""
        record = {SourceError: self.source, AmberfloError: self.customers}
        for kind, of_part in record.items():
            if isinstance(error, kind):
                of_part(str(error))
        self.source.settle()
        self.customers.settle()
