"""PyTorch and safetensors files: tensors under other projects' names."""
