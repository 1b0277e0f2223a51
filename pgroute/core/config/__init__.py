"""From a DSN and options to what each pool and each probe connects with."""
