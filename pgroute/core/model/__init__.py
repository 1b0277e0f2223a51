"""The values that everything else uses: hosts, roles, events, candidates, counters."""
