"""The command line: every room is read here, and nobody reads this one."""
