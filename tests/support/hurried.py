"""`python -m tests.support.hurried daemon …`: the program, whose daemon looks more often."""

from __future__ import annotations

from syncer.cli import main
from tests.support.hurry import hurry

if __name__ == "__main__":
    hurry()
    main()
