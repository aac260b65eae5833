"""What payfirst costs, measured: each module is a program."""
