"""Networks as data: typed rows, families, and the flat graph of primitive layers."""
