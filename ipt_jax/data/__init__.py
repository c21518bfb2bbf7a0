"""Training data: sources of images, crops, and the stream of batches."""
