"""The start of the `syncer` program: first see that its import names are its own.

`syncer` and `state` are also names of other packages on PyPI. Where one of those lies in the same
environment, files of two programs mix, or the wrong one is imported; then this program does not
start. It looks at names of folders only: `importlib.metadata` takes as long to import as all of
`syncer --help`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

#: The folder that the packages of this program lie in.
HOME = Path(__file__).resolve().parents[1]
#: What pip leaves of a distribution that is called as one of our packages: its name and version.
_FOREIGN = re.compile(r"(syncer|state)(?:-([^-]+).*)?\.(?:dist|egg)-info", re.IGNORECASE)


def main() -> NoReturn:
    """Run the program, or say in one line why it cannot run in this environment (exit status 2)."""
    if os.getpid() == 1:
        # Alone in a container. Process 1 ignores what it has no handler for, so a stop that comes
        # before the command listens, while modules are imported, would be lost.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    problem = names_taken(HOME)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    from syncer.cli import main as run

    run()


def names_taken(home: Path) -> str | None:
    """Say who else has the import names `syncer` and `state`; None where they are ours.

    `home` is the folder of our packages. A distribution called as one of them and installed there
    counts, and a `state` that is imported from elsewhere.
    """
    for name in sorted(os.listdir(home)):
        match = _FOREIGN.fullmatch(name)
        if match is not None:
            version = f" {match[2]}" if match[2] else ""
            return _line(f'"{match[1]}"{version} is installed in {home}')
    spec = find_spec("state")
    origin = None if spec is None else spec.origin
    if origin is None or Path(origin).resolve() != home / "state" / "__init__.py":
        return _line(f'"state" is imported from {origin or "nowhere"}')
    return None


def _line(what: str) -> str:
    return (
        f"another package has an import name of this program: {what}; "
        "give engage-amberflo-sync an environment of its own, as pipx and venv make"
    )
