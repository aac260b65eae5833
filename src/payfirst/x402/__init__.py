"""The x402 protocol, pure: what is asked for, what was signed, and whether the two agree."""
