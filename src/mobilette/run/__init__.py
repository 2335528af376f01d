"""Run directories, and asking and measuring the model in one."""
