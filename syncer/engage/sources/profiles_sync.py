"""`profiles_sync`: the tables of Segment Profiles Sync in a warehouse."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from syncer.engage.source import Source
from syncer.engage.source_settings import (
    Sight,
    SourceContext,
    SourceSettings,
    check_file,
    fingerprint,
)
from syncer.errors import ConfigError
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
    compare: Literal["full", "pushdown"] = "full"
    scratch: str = ""

    @property
    def place(self) -> str:
        return shown(self.url)

    def identity(self) -> dict[str, Any]:
        return {"source": [self.NAME, fingerprint(self.url)], "schema": self.schema_}

    def source(self, context: SourceContext) -> Source:
        from syncer.engage.profiles_sync import ProfilesSync

        if self.compare == "pushdown":
            self._check_push_down()
        check_file(self.url, "engage.profiles_sync.url", "Profiles Sync tables")
        source = ProfilesSync(
            url=self.url,
            schema=self.schema_,
            customer_id=context.customer_id,
            overlap=self.overlap,
            filter=context.filter,
        )
        if self.compare == "full":
            return source
        from syncer.engage.pushdown import PushDownSource

        return PushDownSource(source, self.scratch)

    def _check_push_down(self) -> None:
        """Raise `ConfigError` if the warehouse cannot compare, or has no place for it."""
        if self.url.get_backend_name() == "sqlite":
            raise ConfigError(
                'engage.profiles_sync.compare: "pushdown" needs a warehouse that compares, and a '
                'file of SQLite is read here anyway; write "full"'
            )
        if self.scratch in ("", self.schema_):
            raise ConfigError(
                'engage.profiles_sync.scratch: compare = "pushdown" needs a schema of its own; '
                "name one in which the login may create, fill, read and drop tables"
            )
