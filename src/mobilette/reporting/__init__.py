"""Networks and results as images and pages."""
