"""Errors that nobody expected, told like all others: in one line, without a secret.

What the program raises on purpose, and what the system refuses, is said in full. Of any other error
the line has only the kind: its text may hold anything. The log has the way to it, once.
"""

from __future__ import annotations

import errno
import logging

from syncer.display import visible
from syncer.errors import StateError, SyncerError

#: Characters of a line at most.
LONGEST = 500

#: What the system refuses whoever asks, so that what is to be cleaned up then fails in other ways.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})


class Died(Exception):
    """A thread or a process ended without being asked to; the text says how."""


def is_expected(error: BaseException) -> bool:
    """Whether one line says all of it: no traceback is needed."""
    return isinstance(innermost(error), SyncerError | StateError | OSError | Died)


def what_happened(error: BaseException) -> str:
    """Return an error in one line."""
    error = innermost(error)
    if isinstance(error, OSError):
        text = error.strerror or type(error).__name__
        text = f"{text}: {error.filename}" if isinstance(error.filename, str) else text
    elif is_expected(error):
        text = str(error)
    else:
        text = f"an unexpected {type(error).__name__}; the log has where"
    return visible(" ".join(text.split()))[:LONGEST]


def way_to(error: BaseException) -> BaseException | None:
    """Return the error if the log has to show the way to it."""
    return None if is_expected(error) else error


def log_error(log: logging.Logger, what: str, error: BaseException) -> str:
    """Log an error, with the way to it if it is unexpected; return its line without `what`."""
    text = what_happened(error)
    log.error("%s: %s", what, text, exc_info=way_to(error))
    return text


def innermost(error: BaseException) -> BaseException:
    """Return the first error of a group of them, or the error itself.

    Where it came while somebody dealt with a system that has nothing left (`EXHAUSTED`), return
    that refusal: a loop that got no file, say, cannot be closed either.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    context: BaseException | None = error
    while context is not None:
        if isinstance(context, OSError) and context.errno in EXHAUSTED:
            return context
        context = context.__context__
    return error
