"""From a trained agent to plain arrays, an ONNX graph and a model card."""
