"""What to do to a model, as data, and the run that does it."""
