"""accept → settle → confirm → mint → watch: pure plans, thin acts."""
