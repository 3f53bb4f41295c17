"""A process beside the daemon's own; see process.py. It is the daemon that starts these."""

from __future__ import annotations

import sys

from syncer.process.child import TELL, settle_in


def main() -> None:
    name = sys.argv[1]
    config, arguments, lifeline = settle_in()
    if name == "worker":
        from syncer.daemon.worker import work

        work(config, lifeline)
    elif name == "run":
        from syncer.daemon.run_process import run_once

        run_once(config, lifeline.ended, full="full" in arguments)
    elif name == "page":
        from syncer.web.server import serve_page

        serve_page(config, lifeline.ended, int(arguments[0]))
    elif name in TELL:
        from syncer.web.task_process import asked

        asked(config, lifeline.ended, name, arguments)
    else:
        sys.exit(f"there is no process {name!r}")


if __name__ == "__main__":
    main()
