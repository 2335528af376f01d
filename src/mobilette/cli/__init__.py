"""The command line: turns arguments into a function call and prints the result; no logic."""
