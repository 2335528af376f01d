"""The run directory: what a training run reads, writes and resumes from."""
