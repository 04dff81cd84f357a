"""Errors that are told in one line, without a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """What was asked for cannot be done, and nothing was changed. Exit code 2."""
