"""The watch on the hosts: one background thread per process, shared by every router."""
