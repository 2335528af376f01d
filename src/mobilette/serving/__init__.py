"""The HTTP server of artifacts."""
