"""EVM: JSON-RPC, transactions, signers, and what the chain proves."""
