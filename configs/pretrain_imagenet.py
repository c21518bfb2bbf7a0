r"""The paper's model on ImageNet: all six tasks in each step, 24 samples per chip, bfloat16.

    ipt pretrain --config=configs/pretrain_imagenet.py:256 --workdir=gs://BUCKET/ipt \
        --config.data.dir=gs://BUCKET/tfds

The number after the colon is the number of chips; the default is 8. It sets the batch size, which
determines two more values:
- The learning rate follows the square-root rule for Adam from the paper's 5e-5 at batch size 256:
  5e-5 * sqrt(batch / 256) after a warm-up, and 2e-5 by the same rule after two thirds of the steps.
- The number of steps gives the paper's 300 epochs at any batch size, that is 300 x 1,331,167
  samples (the images of ImageNet-2012's train and validation sets): 8.0e19 FLOP.
"""

import math

from ml_collections import ConfigDict

from ipt_jax.model import preset

SAMPLES_PER_CHIP = 24
SAMPLES = 300 * 1_331_167


def get_config(chips: str = "8") -> ConfigDict:
    batch_size = SAMPLES_PER_CHIP * int(chips)
    steps = math.ceil(SAMPLES / batch_size)
    rule = math.sqrt(batch_size / 256)
    return ConfigDict(
        dict(
            steps=steps,
            batch_size=batch_size,
            model=preset("ipt") | dict(dtype="bfloat16", remat="elementwise"),
            data=dict(source="tfds", name="imagenet2012", held_out=16, workers=16),
            loss=dict(contrastive="eq5", weight=0.1, group=4),
            optim=dict(
                schedule="step",
                learning_rate=5e-5 * rule,
                final_learning_rate=2e-5 * rule,
                schedule_steps=steps,
                warmup_steps=2000,
                clip_norm=1.0,
                ema=0.9999,
            ),
            checkpoint=dict(every=1000, keep=3, keep_every=50_000),
            evaluate=dict(every=10_000, pictures=16, size=256),
            log=dict(every=100),
        )
    )
