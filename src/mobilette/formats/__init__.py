"""Published weights in: one room a format, and from them to any width."""
