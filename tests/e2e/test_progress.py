"""What the state says of a run while it goes on."""

from __future__ import annotations

from contextlib import closing

from state import runs
from state.db.database import Database
from syncer.app import App
from syncer.config import load
from syncer.progress import LineProgress
from syncer.sandbox.engage import EngageSandbox
from tests.support.installation import Installation


def test_the_state_has_each_stage_of_a_run(
    installation: Installation, engage: EngageSandbox
) -> None:
    """`status` and the page show it, for the daemon's runs and the page's tasks."""
    engage.fill(30, 2)
    installation.configure()
    installation.run("status")
    stages: list[str] = []
    with closing(Database.open(installation.state_url)) as state:

        def look() -> bool:
            with state.read() as connection:
                (newest,) = runs.newest(connection, 1) or [None]
            if newest is not None and newest.progress is not None:
                stages.append(str(newest.progress["stage"]))
            return False

        app = App(load(installation.config, {}), LineProgress(lambda _: None), look)
        with app.runs(recorded=True) as made:
            assert made.sync().state == runs.DONE
        assert set(stages) == {"comparing", "delivering"}
