"""A paper a file: its table as rows, expanded for a width, a form and classes."""
