"""The DSN and the options of a router, validated, and the connection parameters that follow from them."""
