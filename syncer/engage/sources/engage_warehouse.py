"""`engage_warehouse`: the wide tables of the older Engage destination in a warehouse."""

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
from syncer.errors import ConfigError
from syncer.setting_types import DatabaseUrl, DurationOrNone, Text, shown


class EngageWarehouseSettings(SourceSettings):
    NAME: ClassVar[str] = "engage_warehouse"
    SIGHT: ClassVar[Sight] = Sight(
        lag="what Segment loads hourly, at the next run",
        cost="queries of the warehouse",
        nulls=False,
        anonymous=False,
        merges=False,
    )
    SECRETS: ClassVar[tuple[str, ...]] = ("url",)
    PATHS: ClassVar[tuple[str, ...]] = ("url",)

    url: DatabaseUrl
    schema_: Annotated[str, Field(alias="schema")] = ""
    overlap: DurationOrNone = 3 * 3600.0
    events: tuple[Text, ...] = ("audience_entered", "audience_exited", "trait_computed")

    @property
    def place(self) -> str:
        return shown(self.url)

    def identity(self) -> dict[str, Any]:
        source = [self.NAME, fingerprint(self.url)]
        return {"source": source, "schema": self.schema_, "events": self.events}

    def source(self, context: SourceContext) -> Source:
        from syncer.engage.engage_warehouse import EngageWarehouse

        if context.customer_id != "user_id":
            raise ConfigError(
                "engage.customer_id: these tables know users by their user_id alone; write "
                '"user_id" with engage.source = "engage_warehouse"'
            )
        check_file(self.url, "engage.engage_warehouse.url", "tables of the Engage destination")
        return EngageWarehouse(
            url=self.url,
            schema=self.schema_,
            overlap=self.overlap,
            filter=context.filter,
            events=self.events,
            named=context.named_keys,
            selects=context.selects,
        )
