"""What the packages for web frameworks share."""
