"""The formats of exports, in a module that imports nothing."""

FORMATS = ("torch", "safetensors", "npz", "folder", "stablehlo", "onnx")

# Programs, which contain one task.
SINGLE_TASK = ("stablehlo", "onnx")

# The dtypes of a format; other formats have the dtype of training, float32.
DTYPES = dict.fromkeys(("onnx", "folder"), ("float32", "float16"))

# The layouts of a format: tiles [batch, tile, tile, 3] in 0..255, or images [batch, 3, H, W] in
# 0..1. Other formats have the first.
LAYOUTS = ("nhwc", "nchw")
WITH_LAYOUT = ("onnx",)
