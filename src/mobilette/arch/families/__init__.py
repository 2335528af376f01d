"""One file per paper: its table as rows, expanded for a width, a form and classes."""
