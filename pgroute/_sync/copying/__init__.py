# Generated from pgroute/_async/copying/__init__.py by .ci/unasync.py: edit that file, not this one.
"""COPY from and to files, iterables and functions."""
