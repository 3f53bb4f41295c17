"""All processes that call Amberflo divide the one configured rate, those that only read, too."""

from __future__ import annotations

import time

import pytest

from state.db import workers
from state.db.database import Database
from syncer.delivery.outlook import outlook, present_rate
from syncer.delivery.rate_share import Share
from syncer.rate_limit import RateLimiter


def test_the_living_divide_the_rate(database: Database) -> None:
    pace = RateLimiter(20.0)
    share = Share(database, pace)
    with workers.register(database, "worker"):
        assert (share.look(), pace.rate) == (1, 20.0)
        with workers.register(database, "reader"):
            assert (share.look(), pace.rate) == (2, 10.0)
        assert (share.look(), pace.rate) == (1, 20.0)


def test_a_daemon_that_delivers_nothing_itself_takes_no_share(database: Database) -> None:
    pace = RateLimiter(20.0)
    with workers.register(database, workers.DAEMON), workers.register(database, "worker"):
        assert (Share(database, pace).look(), pace.rate) == (1, 20.0)


def test_estimates_take_the_rate_that_answers_slowed_down(database: Database) -> None:
    """Until it is back, or for a minute after the last word of a process that died."""

    def rates() -> list[float]:
        with database.read() as connection:
            return [present_rate(connection, configured) for configured in (20.0, 3.0, 0.0)]

    for configured in (20.0, 0.0):
        pace = RateLimiter(configured)
        share = Share(database, pace)
        with workers.register(database, "worker"), workers.register(database, "reader"):
            share.look()
            assert rates() == [20.0, 3.0, 0.0]
            for number in range(40):
                pace.reserve(number / 10)
                pace.slow_down(number / 10, None)
            share.look()
            slowed = 2 * pace.rate
            assert 0 < slowed < 3
            assert rates() == pytest.approx([slowed] * 3)
            estimate = outlook(database, 0, 100, 20.0)
            assert estimate.seconds == pytest.approx(300 / slowed)
            later = time.time() * 1000 + 61_000
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("syncer.delivery.outlook.now_ms", lambda later=later: int(later))
                assert rates() == [20.0, 3.0, 0.0]
            for number in range(60):
                pace.speed_up(100.0 + number)
            share.look()
            assert rates() == [20.0, 3.0, 0.0]
