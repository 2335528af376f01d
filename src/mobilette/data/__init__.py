"""Find, decode, resize and split images."""
