"""The paper's recipe: batches of 256 samples of one random task, Adam at 5e-5 and then at 2e-5.

    ipt pretrain --config=configs/pretrain_paper.py --workdir=runs/paper --config.data.dir=TFDS_DIR

The run has 300 epochs, and the learning rate changes at epoch 200. An epoch is taken as one crop of
each of the 1,281,167 training images. There is no gradient clipping, no EMA and no flipping. The
start is that of PyTorch, with inputs in 0..255. Equation 5 compares the images of one device, in
groups of 8 (the paper's 256 over 32 devices). configs/pretrain_imagenet.py trains the same model
with every head and tail in every step.
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
