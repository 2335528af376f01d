"""The artifact directory: a model file, its contract, labels and golden vectors. No torch here."""
