"""`files`: lists of audiences and traits, and logs of calls, on a disk or in an object storage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from syncer.engage.source import Source
from syncer.engage.source_settings import Sight, SourceContext, SourceSettings
from syncer.errors import ConfigError
from syncer.setting_types import DurationOrNone, FilePattern, Section, Text

#: The name of the stage, in the folder of the state.
STAGE = "engage-files.db"


class FileSetSettings(Section):
    """Files that one pattern matches: what they are, and what they do not say themselves."""

    PATHS: ClassVar[tuple[str, ...]] = ("path",)

    path: FilePattern
    kind: Literal["list", "parts", "log"] = "list"
    key: Text | None = None
    format: Literal["csv", "jsonl", "parquet"] | None = None


class FilesSettings(SourceSettings):
    NAME: ClassVar[str] = "files"
    SIGHT: ClassVar[Sight] = Sight(
        lag="what a new file says, at the next run",
        cost="each file is read once",
        deletions=False,
        merges=False,
    )
    PATHS: ClassVar[tuple[str, ...]] = ("sets", "folder")

    sets: Annotated[tuple[FileSetSettings, ...], Field(min_length=1)]
    settle: DurationOrNone = 120.0
    folder: str = ""
    storage: dict[str, Any] = Field(default={}, repr=False)

    @model_validator(mode="after")
    def _sets_differ(self) -> FilesSettings:
        paths = [files.path for files in self.sets]
        if twice := sorted({path for path in paths if paths.count(path) > 1}):
            raise ValueError(f"two of sets have the path {twice[0]!r}; write each once")
        keys = [files.key for files in self.sets if files.key is not None]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(
                f"two of sets are lists of {twice[0]!r}, and each would end what only the other "
                "has; one list says who is in an audience"
            )
        for files in self.sets:
            if files.kind == "log" and files.key is not None:
                raise ValueError("a log names its keys itself: leave key out, or write kind")
        return self

    @property
    def place(self) -> str:
        paths = [files.path for files in self.sets]
        more = f" and {len(paths) - 1} more" if paths[1:] else ""
        return f"{paths[0]}{more}"

    def identity(self) -> dict[str, Any]:
        sets = [[files.path, files.kind, files.key, files.format] for files in self.sets]
        return {"source": [self.NAME, sets]}

    def source(self, context: SourceContext) -> Source:
        from syncer.engage.files.intake import FileSet, Intake
        from syncer.engage.files.source import Files

        if context.filter:
            raise ConfigError(
                "engage.filter: it is a condition of SQL, and files take none; leave it empty"
            )
        return Files(
            Intake(
                path=self._folder(context) / STAGE,
                sets=[
                    FileSet(files.path, files.kind, files.key, files.format, self.storage)
                    for files in self.sets
                ],
                customer_id=context.customer_id,
                named=context.named_keys,
                settle=self.settle,
                progress=context.progress,
                stop=context.stop,
                answered=context.answered,
            ),
            self.place,
        )

    def _folder(self, context: SourceContext) -> Path:
        """Return the folder that keeps what was read."""
        folder = Path(self.folder) if self.folder else context.folder
        if folder is None:
            raise ConfigError(
                "engage.files.folder: missing; with the state on a server, name a folder that "
                "keeps what was read of the files"
            )
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(
                f"engage.files.folder: {folder} is no folder that this user may write to; it keeps "
                "what was read of the files"
            )
        return folder
