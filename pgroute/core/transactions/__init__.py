"""When a transaction may run again, and how it is applied once."""
