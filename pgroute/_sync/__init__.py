# Generated from pgroute/_async/__init__.py by .ci/unasync.py: edit that file, not this one.
"""The face for asyncio, and the master of the synchronous one."""
