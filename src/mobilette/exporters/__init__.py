"""(`Arch`, weights, `Preprocess`, classes) to an artifact: one file per target."""
