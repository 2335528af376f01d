"""Networks and results as pictures and pages."""
