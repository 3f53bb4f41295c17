"""Log a lasting problem once when it begins, and once when it is over."""

from __future__ import annotations

import logging

log = logging.getLogger("syncer")


class ProblemLog:
    """Call it with the problem each time it shows, and with None each time there is none."""

    def __init__(self, part: str) -> None:
        self._part = part
        self._problem: str | None = None

    def __call__(self, problem: str | None) -> None:
        if problem is not None and self._problem is None:
            log.error("%s: %s", self._part, problem)
        elif problem is None and self._problem is not None:
            log.info("%s: it works again", self._part)
        self._problem = problem
