"""`python -m payfirst.config` prints payfirst.example.toml."""

from payfirst.config.example import example_text

if __name__ == "__main__":
    print(example_text(), end="")
