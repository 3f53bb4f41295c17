"""All processes that call Amberflo divide the one configured rate, those that only read, too."""

from __future__ import annotations

from state.db import workers
from state.db.database import Database
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
