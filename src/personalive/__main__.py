"""`python -m personalive` is the `personalive` command."""

from __future__ import annotations

from personalive.cli import main

if __name__ == "__main__":  # the renderer's worker processes import this file, too
    main()
