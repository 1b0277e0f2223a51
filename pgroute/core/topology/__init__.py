"""What is known of the hosts: observations, facts, arbitration, and the snapshot that follows from them."""
