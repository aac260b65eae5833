"""`make bench`: how fast payfirst is on this machine, and where its microseconds go. See README.md beside this."""
