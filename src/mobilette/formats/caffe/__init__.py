"""Caffe files: a definition in text (`.prototxt`) and weights (`.caffemodel`)."""
