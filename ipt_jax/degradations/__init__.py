"""From a clean image to the input of the network."""
