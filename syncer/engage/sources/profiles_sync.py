"""`profiles_sync`: the tables of Segment Profiles Sync in a warehouse."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from syncer.engage.source import Source
from syncer.engage.source_settings import (
    Sight,
    SourceContext,
    SourceSettings,
    check_file,
    fingerprint,
)
from syncer.setting_types import DatabaseUrl, DurationOrNone, shown


class ProfilesSyncSettings(SourceSettings):
    NAME: ClassVar[str] = "profiles_sync"
    SIGHT: ClassVar[Sight] = Sight(
        lag="what Segment loads hourly, at the next run",
        cost="queries of the warehouse",
    )
    SECRETS: ClassVar[tuple[str, ...]] = ("url",)
    PATHS: ClassVar[tuple[str, ...]] = ("url",)

    url: DatabaseUrl
    schema_: Annotated[str, Field(alias="schema")] = ""
    overlap: DurationOrNone = 3 * 3600.0

    @property
    def place(self) -> str:
        return shown(self.url)

    def identity(self) -> dict[str, Any]:
        return {"source": [self.NAME, fingerprint(self.url)], "schema": self.schema_}

    def source(self, context: SourceContext) -> Source:
        from syncer.engage.profiles_sync import ProfilesSync

        check_file(self.url, "engage.profiles_sync.url", "Profiles Sync tables")
        return ProfilesSync(
            url=self.url,
            schema=self.schema_,
            customer_id=context.customer_id,
            overlap=self.overlap,
            filter=context.filter,
        )
