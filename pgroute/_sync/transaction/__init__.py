# Generated from pgroute/_async/transaction/__init__.py by .ci/unasync.py: edit that file, not this one.
"""Transactions that run again where that is safe."""
