"""`profile_api`: Segment's Profile API, for spaces without a warehouse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from syncer.engage.source import Source
from syncer.engage.source_settings import Sight, SourceContext, SourceSettings
from syncer.errors import ConfigError
from syncer.setting_types import Duration, HeaderSecret, HttpUrl, Number, Text


class ProfileApiSettings(SourceSettings):
    NAME: ClassVar[str] = "profile_api"
    SIGHT: ClassVar[Sight] = Sight(
        lag="at the next run, which asks for every profile",
        cost="one request a profile and run, of 100 a second",
        anonymous=False,
        merges=False,
        load_times=False,
    )
    ALWAYS_WHOLE: ClassVar[bool] = True
    SECRETS: ClassVar[tuple[str, ...]] = ("token",)
    PATHS: ClassVar[tuple[str, ...]] = ("ids_file", "folder")

    token: HeaderSecret
    space_id: Text
    url: HttpUrl = "https://profiles.segment.com"
    rate: Annotated[Number, Field(gt=0)] = 100.0
    ids_file: str = ""
    folder: str = ""
    timeout: Duration = 30.0
    patience: Duration = 300.0

    @property
    def place(self) -> str:
        return f"the Profile API at {self.url}, space {self.space_id}"

    def identity(self) -> dict[str, Any]:
        return {"source": [self.NAME, self.url, self.space_id]}

    def source(self, context: SourceContext) -> Source:
        from syncer.engage.profile_api import ProfileApi

        if context.filter:
            raise ConfigError(
                "engage.filter is SQL for the rows of a warehouse, and profile_api has none: leave "
                "it out"
            )
        folder = Path(self.folder) if self.folder else context.folder
        if folder is None:
            raise ConfigError(
                "engage.profile_api.folder: missing; with the state on a server, name a folder of "
                "this machine that keeps the sweeps"
            )
        if self.folder and not folder.is_dir():
            raise ConfigError(
                f"engage.profile_api.folder: the folder {folder} does not exist; create it or name "
                "another"
            )
        return ProfileApi(
            token=self.token.get_secret_value(),
            space_id=self.space_id,
            folder=folder,
            url=self.url,
            rate=self.rate,
            ids_file=self.ids_file,
            timeout=self.timeout,
            patience=self.patience,
            context=context,
        )
