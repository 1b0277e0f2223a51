"""Discovery: what is read from an adviser's answer, and what follows from it for the hosts of a router."""
