# Generated from pgroute/_async/pool/__init__.py by .ci/unasync.py: edit that file, not this one.
"""The pools of one role: hosts, connections, leases."""
