"""The entry point of the daemon's child processes (see process/child.py)."""

from __future__ import annotations

import logging
import os
import sys

from syncer.config import Config
from syncer.process.child import REPORTING, WITH_RESULT, Lifeline, join_parent, report
from syncer.process.runtime import importing, tune_for_writers
from syncer.process.unexpected import log_error

log = logging.getLogger("syncer")

#: By how much nicer the worker is than the receiver, whose callers wait.
LESS_URGENT = 5


def main() -> None:
    """Be the child process that the first argument names; an error ends it with a line."""
    name = sys.argv[1]
    try:
        config, arguments, lifeline = join_parent()
        _be(name, config, arguments, lifeline)
    except Exception as error:  # noqa: BLE001 - the daemon starts it again
        text = log_error(log, name, error)
        if name in REPORTING:
            report({name: text})
        sys.exit(1)


def _be(name: str, config: Config, arguments: tuple[str, ...], lifeline: Lifeline) -> None:
    if name == "worker":
        with importing():
            from syncer.daemon.worker import work

        os.nice(LESS_URGENT)
        tune_for_writers()
        work(config, lifeline, report)
    elif name == "run":
        with importing():
            from syncer.daemon.run_process import run_once

        run_once(config, lifeline.ended, full="full" in arguments)
    elif name == "page":
        from syncer.web.server import serve_page

        serve_page(config, lifeline.ended, int(arguments[0]), report)
    elif name in WITH_RESULT:
        from syncer.web.task_process import run_task

        run_task(config, lifeline.ended, name, arguments)
    else:
        sys.exit(f"there is no process {name!r}")


if __name__ == "__main__":
    main()
