"""Degradations: from a clean image (hq) to the input of the network (lq).

Images are RGB, `[H, W, 3]`, in 0..255. A degradation is a small frozen dataclass that is called as
`degrade(hq, rng) -> lq` and is a pure function of the uint8 image and the `numpy.random.Generator`.
It has

- `scale`: `hq` is `scale` times as high and as wide as `lq`;
- `margin`: the number of lq pixels that a crop needs on every side, as far as the image goes, so
  that the degraded and cut crop equals a crop of the whole degraded image;
- `rounded`: True where `lq` is uint8, False where it is float32 in 0..255 and not rounded;
- `grid`, where it has one: the spacing in lq pixels of places that are treated alike, such as the
  blocks of JPEG.
"""
