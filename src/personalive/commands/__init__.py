"""One module per command of the `personalive` program: a thin shell around the module that does the work.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""
