"""What an error says about a host, a session and a transaction."""
