"""Integrations with frameworks, a package each. pgroute itself imports none of them."""
