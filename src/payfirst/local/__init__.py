"""What runs on a laptop: embedded PostgreSQL, local chain, demo."""
