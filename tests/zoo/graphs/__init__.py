"""Hard graphs of our own, by kind."""
