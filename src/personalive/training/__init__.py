"""Consumers of the networks that need gradients: how the built-in model is made (docs/model.md, section 7)."""
