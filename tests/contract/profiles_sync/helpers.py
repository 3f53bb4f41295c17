"""What the tests of Profiles Sync share."""

from __future__ import annotations

from datetime import datetime, timedelta

from syncer.engage.profiles_sync import ProfilesSyncPull


def assert_watermark(pull: ProfilesSyncPull, newest: str) -> None:
    """It is the time of the newest row, or a trifle before (SQLite counts in days): never later."""
    found = datetime.fromisoformat(pull.watermark() or "")
    expected = datetime.fromisoformat(newest)
    assert expected - timedelta(milliseconds=2) < found <= expected
