# Generated from pgroute/_async/direct/__init__.py by .ci/unasync.py: edit that file, not this one.
"""Queries without a session of their own: one statement, one transaction, one round trip."""
