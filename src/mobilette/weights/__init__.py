"""Published weights in: one file per source format, and from them to any width."""
