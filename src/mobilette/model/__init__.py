"""`Model`: arch, weights, preprocessing and classes as one value; read and written."""
