"""The formats of exports, in a module that imports nothing."""

FORMATS = ("torch", "safetensors", "npz", "folder", "stablehlo", "onnx")

# Programs, which contain one task.
SINGLE_TASK = ("stablehlo", "onnx")

# The dtypes of a format; other formats have the dtype of training, float32.
DTYPES = dict.fromkeys(("onnx", "folder"), ("float32", "float16"))
