"""Models: the zoo, what can be pruned, what must go together, cutting, proving and saving."""
