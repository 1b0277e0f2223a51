"""Decisions only: no socket, thread, event loop or sleep; the clock and the Random are arguments."""
