"""The ways to pull from Engage, one file each: its settings, what it can see, how it is built."""

from __future__ import annotations

from syncer.engage.source_settings import SourceSettings
from syncer.engage.sources.engage_warehouse import EngageWarehouseSettings
from syncer.engage.sources.events import EventsSettings
from syncer.engage.sources.files import FilesSettings
from syncer.engage.sources.profile_api import ProfileApiSettings
from syncer.engage.sources.profiles_sync import ProfilesSyncSettings

_ALL: tuple[type[SourceSettings], ...] = (
    ProfilesSyncSettings,
    EngageWarehouseSettings,
    ProfileApiSettings,
    FilesSettings,
    EventsSettings,
)

#: The sources, by the name that `engage.source` gives.
SOURCES = {source.NAME: source for source in _ALL}
