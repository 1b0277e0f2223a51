"""What the counters of a router mean, for every system that takes metrics."""
