"""The pools of one role: hosts, connections, leases."""
