"""Judging: how accurate a network is, and whether an artifact answers as its checkpoint does."""
