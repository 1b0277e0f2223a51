"""One watch of a host for all processes of a user: one of them probes it, and tells the others what it observes."""
