"""(`Arch`, weights) to (`Arch`, weights): the same function, or nearly, in another form."""
