r"""A tiny IPT for all six tasks on a folder of photographs; it takes half an hour on two cores.

    ipt pretrain --config=configs/pretrain_folder.py --workdir=runs/folder --config.data.dir=PHOTOS

On an accelerator, train for longer with a larger batch. The command line can set any key, but not
an entire preset; for another preset, copy this file.

    ipt pretrain --config=configs/pretrain_folder.py --workdir=runs/folder \
        --config.data.dir=PHOTOS --config.steps=50000 --config.batch_size=192 \
        --config.model.dtype=bfloat16 --config.data.workers=8
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            steps=2000,
            batch_size=24,
            model=preset("tiny"),
            data=dict(source="folder", held_out=4, flips=True),
            optim=dict(
                schedule="cosine",
                learning_rate=1e-3,
                final_learning_rate=1e-6,
                warmup_steps=100,
                clip_norm=1.0,
                ema=0.998,
            ),
            checkpoint=dict(every=250),
            evaluate=dict(every=500, pictures=2, size=256),
            log=dict(every=25),
        )
    )
