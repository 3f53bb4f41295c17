"""Errors of the state database. `syncer.errors` draws the whole tree."""

from __future__ import annotations


class StateError(Exception):
    """The state database cannot be used as it is; the message says what to do."""


class Busy(StateError):
    """Another process was writing for longer than we wait; the same can be tried again."""


class Locked(StateError):
    """Another process holds a lock that has to be had."""
