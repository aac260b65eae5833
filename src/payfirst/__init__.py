"""payfirst: an x402 server that stores a payment, answers 202, settles it, and only then mints."""

__version__ = "0.1.0"
