"""Export: a training checkpoint becomes a bundle with ONNX graphs and a parity certificate."""
