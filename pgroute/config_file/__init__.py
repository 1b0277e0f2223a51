"""Routers from configuration files: reads TOML or YAML, resolves variables and secrets, and shares what it has made."""
