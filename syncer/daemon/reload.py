"""What a reload of the config (SIGHUP) restarts, and which keys need a restart of the daemon."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from syncer.config import Config


class Part(Enum):
    """A part of the service that takes its settings when it starts."""

    DAEMON = auto()
    WORKER = auto()
    PAGE = auto()
    SCHEDULE = auto()


#: The parts that a changed key, or any key of a section (`.*`), restarts. A reload cannot restart
#: the daemon: such a key keeps its value. Keys that are not here take effect at once.
RESTARTS = {
    "amberflo.*": {Part.WORKER, Part.PAGE},
    "engage.*": {Part.WORKER, Part.PAGE},
    "guard.*": {Part.PAGE},
    "log.*": {Part.WORKER, Part.PAGE},
    "ops.*": {Part.DAEMON},
    "passthrough.deletes_per_day": {Part.WORKER},
    "passthrough.listen": {Part.DAEMON},
    "retention.*": {Part.WORKER},
    "schedule.*": {Part.SCHEDULE},
    "state.*": {Part.DAEMON},
    "web": {Part.DAEMON},
    "web.*": {Part.PAGE},
    "web.listen": {Part.DAEMON},
}


def restarts(key: str) -> set[Part]:
    """Return the parts that a changed key restarts."""
    section = key.partition(".")[0]
    return RESTARTS.get(key) or RESTARTS.get(f"{section}.*") or set()


def parts_to_restart(changed: Iterable[str]) -> set[Part]:
    """Return the parts that the changed keys restart."""
    return set[Part]().union(*map(restarts, changed))


def applicable(old: Config, new: Config) -> Config:
    """Return the new settings, but the old values of keys that need a restart of the daemon."""
    listen = {"listen": old.passthrough.listen}
    web = old.web
    if old.web is not None and new.web is not None:
        web = new.web.model_copy(update={"listen": old.web.listen})
    return new.model_copy(
        update={
            "state": old.state,
            "ops": old.ops,
            "passthrough": new.passthrough.model_copy(update=listen),
            "web": web,
        }
    )
