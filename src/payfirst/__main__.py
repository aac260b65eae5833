"""`python -m payfirst` is the command `payfirst`."""

if __name__ == "__main__":
    # Here, not above: a process that serves is spawned, and would import the whole command line again.
    from payfirst.cli.main import main

    main()
