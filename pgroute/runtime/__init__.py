"""What pools and monitor share: timers, forks, aborts, back-off, events."""
