"""Pull from files: what they say is kept in a stage, as the tables of Profiles Sync."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace

from syncer.clock import iso
from syncer.engage import stage
from syncer.engage.files import memory
from syncer.engage.files.intake import Intake
from syncer.engage.files.memory import Facts
from syncer.engage.profiles_sync import ProfilesSync
from syncer.engage.source import (
    Absence,
    Counted,
    ObservedKey,
    Pull,
    PulledCustomer,
    Scope,
    SourceRow,
    Survey,
    WithoutCustomerId,
)
from syncer.errors import SourceError
from syncer.pause import sleep_thread

#: How far an incremental pull looks back before the time of the files that the last one knew.
OVERLAP = 3 * 3600.0
#: Seconds between two looks whether another process is done with the stage.
LOOK = 1.0


@dataclass(frozen=True)
class Files:
    """The source; `place` names it."""

    intake: Intake
    place: str

    @contextmanager
    def pull(self, scope: Scope) -> Iterator[FilesPull]:
        """Read what is new, and open one snapshot of all that was read."""
        with ExitStack() as opened:
            with self._alone():
                self.intake.bring_up_to_date()
                facts = memory.facts(self.intake.path)
                pull = opened.enter_context(self._staged.pull(scope))
            yield FilesPull(pull, facts)

    def survey(self) -> Survey:
        """Return what the files hold; raise `SourceError` if one of them cannot be read."""
        with self._alone():
            self.intake.bring_up_to_date()
            facts, survey = memory.facts(self.intake.path), self._staged.survey()
        left_out = [
            f"{pattern}: {number:,} records are left out: {reason}"
            for pattern, reason, number in facts.left_out
        ]
        written = (
            f"what the files say is as of {iso(facts.until)}, the time of their oldest set"
            if facts.until
            else None
        )
        advice = (*([written] if written else []), *left_out)
        return replace(survey, place=self.place, advice=advice)

    def _alone(self) -> AbstractContextManager[bool]:
        """Hold the lock of the stage, so that its facts and its rows are those of one filling."""
        intake = self.intake
        return stage.alone(intake.path, intake.progress, "reads the files", self._pause)

    def _pause(self) -> None:
        self.intake.check_stop()
        self.intake.answered()
        sleep_thread(LOOK, self.intake.stop)

    @property
    def _staged(self) -> ProfilesSync:
        return ProfilesSync(
            stage.url(self.intake.path), customer_id=self.intake.customer_id, overlap=OVERLAP
        )


class FilesPull:
    """One snapshot; `source.Pull` describes the methods."""

    def __init__(self, staged: Pull, facts: Facts) -> None:
        self._staged, self._facts = staged, facts

    def watermark(self) -> str | None:
        """Return the time of the set of files whose newest is the oldest.

        Calls that came later may be missing in its files, whenever these were read.
        """
        until = self._facts.until if self._staged.watermark() else None
        return None if until is None else (iso(until) or "").replace("Z", "+00:00")

    def absence(self) -> Absence:
        return Absence(frozenset(self._facts.listed), deletions=False)

    def observed(self) -> list[ObservedKey]:
        return self._staged.observed()

    def count(self, keys: Collection[str]) -> Counted:
        return self._staged.count(keys)

    def customers(self, keys: Collection[str]) -> Generator[PulledCustomer]:
        self._check_lists(keys)
        return self._staged.customers(keys)

    def _check_lists(self, keys: Collection[str]) -> None:
        """Raise `SourceError` if two sets list one of our keys."""
        for key in sorted(self._facts.listed.keys() & set(keys)):
            first, *others = self._facts.listed[key]
            if others:
                raise SourceError(
                    f"{first} and {others[0]} are both lists of {key!r}, and each would end what "
                    'only the other has; make them one set with kind = "parts", or leave the '
                    "column out of one"
                )

    def rows_of(self, key: str) -> list[SourceRow]:
        return self._staged.rows_of(key)

    def identified(self, customer_ids: Collection[str]) -> set[str]:
        return self._staged.identified(customer_ids)

    def without_customer_id(self, keys: Collection[str]) -> WithoutCustomerId:
        return self._staged.without_customer_id(keys)

    def profiles_without_customer_id(self, keys: Collection[str]) -> Iterator[str]:
        return self._staged.profiles_without_customer_id(keys)
