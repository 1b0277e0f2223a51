"""A small shop on Django and pgroute."""
