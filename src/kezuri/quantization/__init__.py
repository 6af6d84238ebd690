"""Fewer bits for weights and activations: after training, or with training going on."""
