"""Chooses: a network for a budget, a precision for a target."""
