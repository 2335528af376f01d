"""What executes a checkpoint or an artifact: one file per engine, one interface."""
