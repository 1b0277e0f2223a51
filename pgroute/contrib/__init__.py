"""pgroute in frameworks; each needs the extra of its name."""
