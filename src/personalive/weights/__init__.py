"""Checkpoints: official files and our own, read strictly into the networks."""
