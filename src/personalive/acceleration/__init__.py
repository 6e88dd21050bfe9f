"""The same numbers with less memory or in less time: every piece takes networks and gives networks back."""
