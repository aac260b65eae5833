"""The command `payfirst`."""
