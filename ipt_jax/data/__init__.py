"""Training data: sources of images, random crops, and the stream of batches.

- `sources`: the image sets that training reads from, behind one interface;
- `files`: the image files below a folder;
- `layouts`, `partners`: how benchmark sets and image pairs lie in folders, and which images are
  partners;
- `crops`: from a decoded image to an (lq, hq) pair;
- `pipeline`: `(config, step) -> batch`, and the stream of batches;
- `workers`, `child_processes`, `shared_memory`: batches made ahead by other processes;
- `stages`: the hook that a benchmark uses to time the pipeline;
- `prepare`: packing, building and inspecting data sets;
- `degrade`: the public address of the degradations.
"""
