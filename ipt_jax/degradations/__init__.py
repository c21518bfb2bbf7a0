"""Degradations: from a clean image (hq) to the input of the network (lq).

Images are RGB, `[H, W, 3]`, in 0..255. A degradation is a small frozen dataclass that is called as
`degrade(hq, rng) -> lq` and is a pure function of the uint8 image and the `numpy.random.Generator`.
It has these attributes:

- `scale`: `hq` is `scale` times as high and as wide as `lq`;
- `margin`: the number of lq pixels that a crop needs on every side, as far as the image extends, so
  that degrading and cutting the crop equals cutting the degraded image;
- `rounded`: True if `lq` is uint8, False if it is float32 and not rounded;
- `grid` (optional): the period in lq pixels with which the degradation repeats, such as that of
  JPEG's blocks. Crops are cut so that they begin on this grid.

`base` holds what the degradations share. Each other module holds one kind: `bicubic`, `noise`,
`rain`, `blur`, `jpeg`, `chain` (sequences of others and choices between them), and `paired` (tasks
whose degraded images exist already). The names under which a config asks for them are in
`ipt_jax.tasks`.
"""
