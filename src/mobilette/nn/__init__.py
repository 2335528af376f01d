"""`Arch` to `torch.nn.Module`: one file per kind of block."""
