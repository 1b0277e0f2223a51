"""What is known of the hosts: observations, facts, arbitration, and the snapshot they lead to."""
