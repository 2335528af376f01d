"""Chooses among networks and precisions."""
