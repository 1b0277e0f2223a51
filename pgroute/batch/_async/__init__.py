"""Batch jobs, asynchronous; the synchronous twin is generated from this folder."""
