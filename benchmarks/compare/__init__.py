"""pgroute, psycopg_pool and hasql side by side on the same work, in one run: see docs/performance.md."""
