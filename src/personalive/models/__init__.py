"""The networks: nn.Modules only, without I/O and without state between calls."""
