"""Backends: how a Kernel runs on a device. They know no Tensor and no graph; `kernel.py` is all they are told."""
