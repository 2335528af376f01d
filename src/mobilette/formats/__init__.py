"""Readers of published weights, one package per format, and fitting them to any width."""
