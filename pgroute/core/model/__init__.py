"""Values that everything else is about: hosts, roles, candidates, counters."""
