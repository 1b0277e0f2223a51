"""The errors that end a command with a message on stderr."""

from __future__ import annotations


class CommandError(Exception):
    """The command failed; the message says why, and what to do."""


class NotInTime(Exception):
    """The timeout is over; the message says what is missing."""
