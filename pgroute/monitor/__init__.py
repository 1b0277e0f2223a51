"""The monitor of the hosts: one background thread per process, shared by all routers."""
