"""Image files, read and written with all their metadata, and operations on pixels."""
