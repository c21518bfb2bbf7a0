"""Pictures, degradations and the stream of batches."""
