"""Shorter waits of the program; nothing else changes.

A test of what comes after a failed attempt need not wait as long as a failing Amberflo deserves.
The tests in tests/unit/test_backoff.py hold the waits themselves.
"""

from __future__ import annotations

from typing import Any

import syncer.amberflo.reader
import syncer.amberflo.silence
import syncer.daemon.alerts
import syncer.daemon.schedule
import syncer.daemon.service
import syncer.daemon.worker
import syncer.delivery.customers
import syncer.delivery.meters
import syncer.delivery.rate_share
import syncer.passthrough.inbox
import syncer.process.limits
import syncer.process.problem
import syncer.process.supervisor
import syncer.retry

#: (module, name, seconds, or a number of looks)
_WAITS: tuple[tuple[Any, str, float], ...] = (
    (syncer.retry, "BASE", 0.02),
    (syncer.retry, "CAP", 0.2),
    (syncer.amberflo.reader, "LOOK", 0.1),
    (syncer.amberflo.silence, "TELL_AFTER", 0.5),
    (syncer.daemon.alerts, "LASTS", 0.5),
    (syncer.daemon.schedule, "RETRY_SLOT_AFTER", 2.0),
    (syncer.daemon.schedule, "RETRY_RUN_AFTER", 1.0),
    (syncer.daemon.service, "BEAT", 1.0),
    (syncer.daemon.service, "CLOCK_EVERY", 0.3),
    (syncer.daemon.service, "ALERTS_EVERY", 0.25),
    (syncer.daemon.service, "SUCCESSION_EVERY", 0.4),
    (syncer.daemon.alerts, "STATE_GONE_AFTER", 0.6),
    (syncer.delivery.customers, "LOOK", 0.1),
    (syncer.delivery.customers, "PROBE_AFTER", 0.2),
    (syncer.delivery.rate_share, "LOOK", 0.1),
    (syncer.passthrough.inbox, "COUNT_EVERY", 0.3),
    (syncer.process.limits, "DRAIN_TIMEOUT", 2),
    (syncer.process.problem, "RECORD_EVERY", 0.3),
    (syncer.process.problem, "LOOK_EVERY", 0.5),
    (syncer.process.problem, "STALE", 4.0),
    (syncer.process.problem, "RETRY_AFTER", 0.3),
    (syncer.process.supervisor, "LAST_PAUSE", 0.5),
    # More looks, after which as much time has passed.
    (syncer.process.supervisor, "LOOK", 1.0),
    (syncer.process.supervisor, "SILENT_LOOKS", 40),
    (syncer.delivery.meters, "EMPTY", 0.1),
    (syncer.delivery.meters, "KEY_REFUSED", 0.2),
    (syncer.daemon.worker, "RETRY_AFTER", 0.1),
    (syncer.daemon.worker, "CHECK_EVERY", 0.1),
    (syncer.daemon.worker, "COUNT_EVERY", 0.5),
    (syncer.daemon.worker, "DUE_EVERY", 0.1),
)


def hurry(put: Any = setattr) -> None:
    """Make the waits of this process short; `put(module, name, seconds)` sets one."""
    for module, name, seconds in _WAITS:
        put(module, name, seconds)
