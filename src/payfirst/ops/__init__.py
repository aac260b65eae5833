"""What an operator sees: log lines, latency, process records."""
