"""Keras and TensorFlow.js files."""
