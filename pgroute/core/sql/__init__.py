"""The router's own statements, their answers, and the tables they use."""
