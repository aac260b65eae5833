"""HTTP: the side that faces the internet. It holds no key and makes no RPC call."""
