"""The command line: arguments to a function to what is printed; no logic."""
