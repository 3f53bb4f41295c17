"""The entry point of the daemon's child processes (see process/child.py)."""

from __future__ import annotations

import sys

from syncer.process.child import WITH_RESULT, join_parent


def main() -> None:
    name = sys.argv[1]
    config, arguments, lifeline = join_parent()
    if name == "worker":
        from syncer.daemon.worker import work

        work(config, lifeline)
    elif name == "run":
        from syncer.daemon.run_process import run_once

        run_once(config, lifeline.ended, full="full" in arguments)
    elif name == "page":
        from syncer.web.server import serve_page

        serve_page(config, lifeline.ended, int(arguments[0]))
    elif name in WITH_RESULT:
        from syncer.web.task_process import run_task

        run_task(config, lifeline.ended, name, arguments)
    else:
        sys.exit(f"there is no process {name!r}")


if __name__ == "__main__":
    main()
