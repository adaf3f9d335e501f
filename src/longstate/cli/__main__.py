"""`python -m longstate.cli`: the command where no console script was installed."""

from longstate.cli.entry import main

if __name__ == "__main__":
    main()
