"""Statements that SQLAlchemy compiled once, for all engines of a test session.

A test opens the same databases again and again, each time with an engine whose statements would be
compiled anew; a process of the program opens each once.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.util import LRUCache

_compiled: defaultdict[type, LRUCache[Any, Any]] = defaultdict(lambda: LRUCache(2000))


def share() -> None:
    """From now on all engines of a dialect have one cache of compiled statements."""
    Engine._compiled_cache = property(  # type: ignore[assignment]
        lambda engine: _compiled[type(engine.dialect)],
        lambda _engine, _its_own: None,
    )
    # The dialect is a part of a statement's key.
    DefaultDialect.__eq__ = lambda first, other: type(first) is type(other)  # type: ignore[method-assign]
    DefaultDialect.__hash__ = lambda dialect: hash(type(dialect))  # type: ignore[method-assign]
