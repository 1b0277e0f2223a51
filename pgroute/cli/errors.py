"""What ends a command with one line on stderr."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do its work; the text says why, and what to do."""


class NotInTime(Exception):
    """What was waited for did not come about; the text says what is missing."""
