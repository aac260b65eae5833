"""`python -m payfirst` is the command `payfirst`."""

from payfirst.cli.main import main

if __name__ == "__main__":
    main()
