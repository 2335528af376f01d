"""PyTorch and safetensors files: tensors under the names of other projects."""
