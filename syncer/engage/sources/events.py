"""`events`: no pull; memberships by signed webhook alone."""

from __future__ import annotations

from typing import Any, ClassVar

from syncer.engage.source import Source
from syncer.engage.source_settings import Sight, SourceContext, SourceSettings
from syncer.errors import ConfigError


class EventsSettings(SourceSettings):
    NAME: ClassVar[str] = "events"
    SIGHT: ClassVar[Sight] = Sight(
        lag="at once",
        cost="nothing",
        vanished_traits=False,
        nulls=False,
        deletions=False,
        anonymous=False,
        merges=False,
        load_times=False,
    )

    @property
    def place(self) -> str:
        from syncer.engage.events import PLACE

        return PLACE

    def identity(self) -> dict[str, Any]:
        return {"source": [self.NAME]}

    def source(self, context: SourceContext) -> Source:
        from syncer.engage.events import Events

        if not context.has_webhook:
            raise ConfigError(
                'engage.source: "events" is what Segment\'s webhook says, and there is none; set '
                "passthrough.webhook_secret"
            )
        if context.customer_id != "user_id":
            raise ConfigError(
                'engage.customer_id: calls name a customer by its userId; write "user_id" with '
                'engage.source = "events"'
            )
        if context.filter:
            raise ConfigError(
                "engage.filter: it is a condition of SQL, and calls take none; leave it empty"
            )
        return Events(context.called)
