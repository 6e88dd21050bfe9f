"""Driving frame -> MotionSignals. Composes networks, owns no weights."""
