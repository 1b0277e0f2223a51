"""COPY from and to files, iterables and functions."""
