"""Statements that SQLAlchemy compiled once, for all engines of a test session.

A test opens the same databases again and again, each time with an engine whose statements would be
compiled anew; a process of the program opens each once.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect

_compiled: dict[type, Any] = {}


def share() -> None:
    """From now on all engines of a dialect have one cache of compiled statements."""
    make = Engine.__init__

    def sharing(engine: Engine, pool: Any, dialect: Any, *rest: Any, **options: Any) -> None:
        make(engine, pool, dialect, *rest, **options)
        cache = _compiled.setdefault(type(dialect), engine._compiled_cache)
        engine._compiled_cache = cache

    Engine.__init__ = sharing  # type: ignore[method-assign]
    # The dialect is a part of a statement's key.
    DefaultDialect.__eq__ = lambda one, other: type(one) is type(other)  # type: ignore[method-assign]
    DefaultDialect.__hash__ = lambda one: hash(type(one))  # type: ignore[method-assign]
