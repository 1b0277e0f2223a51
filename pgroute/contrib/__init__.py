"""pgroute in frameworks; each package needs the extra of its name."""
