# Generated from pgroute/batch/_async/__init__.py by .ci/unasync.py: edit that file, not this one.
"""Batch jobs, asynchronous; the synchronous twin is generated from this folder."""
