r"""A model of 0.99 B parameters on ImageNet, on accelerators with a sharded training state.

    ipt pretrain --config=configs/pretrain_1b.py:256 --workdir=gs://BUCKET/ipt1b \
        --config.data.dir=gs://BUCKET/tfds

Each step trains all six tasks on 24 samples per chip in bfloat16. The number after the colon is the
number of chips; the default is 8. Parameters, Adam's moments and the EMA take 16 GB. Each chip
stores a part of them (sharding="fsdp"); a layer's parameters are gathered when the layer runs, and
its activations are recomputed in the backward pass. The learning rates are those of
configs/pretrain_imagenet.py divided by the square root of 8.6, the ratio of the models' sizes; they
have not been tried at this size.
"""

import math

from ml_collections import ConfigDict

from ipt_jax.model import preset

SAMPLES_PER_CHIP = 24
SAMPLES = 300 * 1_331_167


def get_config(chips: str = "8") -> ConfigDict:
    batch_size = SAMPLES_PER_CHIP * int(chips)
    steps = math.ceil(SAMPLES / batch_size)
    rule = math.sqrt(batch_size / 256 / 8.6)
    return ConfigDict(
        dict(
            steps=steps,
            batch_size=batch_size,
            sharding="fsdp",
            model=preset("ipt_1b") | dict(dtype="bfloat16", remat="layer"),
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
