"""Live: viewers' sessions, one worker that steps them together, and the ways in and out (docs/live.md)."""
