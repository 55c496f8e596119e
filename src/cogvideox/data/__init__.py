"""Training data as tensors."""
