"""Recipe, step and loop: from pictures and an `Arch` to weights."""
