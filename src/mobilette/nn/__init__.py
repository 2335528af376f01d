"""The `torch.nn.Module` of an `Arch`, and kernels in C++."""
