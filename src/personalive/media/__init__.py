"""Pixels in and out: pictures, videos, the boundary between uint8 and tensors. Knows no network."""
