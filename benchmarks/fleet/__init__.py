"""Simulates fleets of clients, servers and a network around the decisions of pgroute/core; see `__main__`."""
