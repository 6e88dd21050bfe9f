"""Consumers that measure: how near the truth, how fast."""
