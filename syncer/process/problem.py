"""Trouble: what is wrong for a whole path of the daemon is said once, and once that it is over."""

from __future__ import annotations

import logging

log = logging.getLogger("syncer")


class Trouble:
    """Call it with the problem each time it shows, and with None each time there is none."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said: str | None = None

    def __call__(self, problem: str | None) -> None:
        if problem is not None and self._said is None:
            log.error("%s: %s", self._what, problem)
        elif problem is None and self._said is not None:
            log.info("%s: it works again", self._what)
        self._said = problem
