"""The paper's recipe to the letter: batch 256 of one random task a step, Adam, 5e-5 then 2e-5 from
epoch 200 of 300.

ipt pretrain --config=configs/pretrain_paper.py --workdir=runs/paper --config.data.dir=TFDS_DIR

An epoch is read as one crop of each of the 1,281,167 training pictures. No clipping, no average of
the weights, no flips; torch-style start in 0..255; eq. 5 over a device's pictures, in groups of 8
(the paper's 256 over 32 devices). configs/pretrain_imagenet.py trains the same model with every
head and tail in every step.
"""

import math

from ml_collections import ConfigDict

from ipt_jax.model import preset

EPOCHS, PICTURES, BATCH = 300, 1_281_167, 256


def get_config() -> ConfigDict:
    steps = math.ceil(EPOCHS * PICTURES / BATCH)
    return ConfigDict(
        dict(
            steps=steps,
            batch_size=BATCH,
            model=preset("ipt"),
            data=dict(source="tfds", name="imagenet2012", held_out=0, draw="one", workers=8),
            loss=dict(contrastive="eq5", weight=0.1, group=8),
            optim=dict(
                schedule="step",
                learning_rate=5e-5,
                final_learning_rate=2e-5,
                schedule_steps=steps,
                drop_at=2 / 3,
            ),
            checkpoint=dict(every=2000, keep=3, keep_every=100_000),
            evaluate=dict(every=0),
            log=dict(every=100),
        )
    )
