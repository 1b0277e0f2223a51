# Generated from pgroute/_async/listening/__init__.py by .ci/unasync.py: edit that file, not this one.
"""The connection on which a router listens, and the thread or task that keeps it."""
