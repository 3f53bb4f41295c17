"""Errors of the state database. `syncer.errors` draws the whole tree."""

from __future__ import annotations


class StateError(Exception):
    """The state database cannot be used as it is; the message says what to do."""


class Locked(StateError):
    """Another process holds the run lock."""
