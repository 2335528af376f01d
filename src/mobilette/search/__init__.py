"""Searches for a precision that suits a target."""
