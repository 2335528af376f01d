"""Recipe, step and loop: from images and an `Arch` to weights."""
