"""A folder of files as Segment leaves them, and a source that reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from syncer.engage.files.intake import FileSet, Intake
from syncer.engage.files.source import Files
from syncer.engage.source import Everything, Scope
from syncer.errors import SyncerError
from syncer.progress import LineProgress

HOUR = 3600 * 1000
#: A moment of the tests, in epoch milliseconds; files are written in the minutes before it.
NOW = 1_795_856_400_000


@dataclass
class Shelf:
    """A folder of files, and the stage that is filled from it."""

    folder: Path
    sets: list[FileSet] = field(default_factory=list)
    customer_id: str = "user_id"
    settle: float = 0
    named: tuple[str, ...] = ()
    now: int = NOW

    def put(self, name: str, content: str | bytes, *, ago: float = 60, at: int = NOW) -> Path:
        """Write a file so many minutes before a moment."""
        path = self.folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        nanoseconds = int((at - ago * 60_000) * 1_000_000)
        os.utime(path, ns=(nanoseconds, nanoseconds))
        return path

    def add(self, pattern: str, kind: Any = "list", key: str | None = None, **more: Any) -> None:
        self.sets.append(FileSet(str(self.folder / pattern), kind, key, **more))

    @property
    def source(self) -> Files:
        stage, progress = self.folder / "stage.db", LineProgress(lambda text: None)
        intake = Intake(
            *(stage, self.sets, self.customer_id, self.named, self.settle, progress),
            lambda: False,
            clock=lambda: self.now,
        )
        return Files(intake, "files")

    def pulled(
        self, keys: Sequence[str] = ("vip", "gold", "total"), scope: Scope | None = None
    ) -> dict[str, dict[str, Any]]:
        """What a pull says of each customer: the value of each key, the newest."""
        with self.source.pull(scope or Everything()) as pull:
            customers = list(pull.customers(keys))
        said: dict[str, dict[str, Any]] = {}
        for row in customers:
            values = zip(json.loads(row.keys), json.loads(row.values), strict=True)
            people = ((key, value) for key, value, _ in json.loads(row.profile))
            said[row.customer_id] = {**dict(values), **dict(people)}
        return said

    def refusal(self) -> str:
        """The one line by which a pull is refused; what was read before is still there."""
        before = self.folder.joinpath("stage.db").exists()
        with pytest.raises(SyncerError) as caught:
            self.pulled()
        assert "\n" not in str(caught.value)
        assert "SELECT" not in str(caught.value)
        assert self.folder.joinpath("stage.db").exists() == before
        return str(caught.value).replace(f"{self.folder}/", "")


def members(*customer_ids: str, key: str = "p") -> str:
    """A download of an audience with these customers."""
    rows = [
        f'{key}-{each},"{{""user_id"":[""{each}""],""email"":[""{each}@x.y""]}}"'
        for each in customer_ids
    ]
    return "\n".join(["key,external_ids", *rows, ""])


def call(user: str, key: str, value: object, minutes_ago: float, **more: Any) -> str:
    at = NOW - minutes_ago * 60_000
    personas = {"computation_class": "audience", "computation_key": key}
    return json.dumps(
        {"type": "identify", "userId": user, "timestamp": at, "traits": {key: value}}
        | {"context": {"personas": personas}}
        | more
    )
