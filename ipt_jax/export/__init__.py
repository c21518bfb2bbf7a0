"""Weights and programs for other software: ONNX, StableHLO, PyTorch names, model cards."""
