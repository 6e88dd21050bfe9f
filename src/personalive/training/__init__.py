"""Consumers of the networks that need gradients: how the built-in model is made (spec section 4)."""
