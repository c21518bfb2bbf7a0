"""The model that the package ships: all six tasks, an hour of two cores, on CID22 and GB82.

ipt pretrain --config=configs/pretrain_small.py --workdir=runs/small --config.data.dir=PHOTOS

PHOTOS holds the pictures of both sets (232 lossless photographs, CC BY-SA 4.0 and CC0). On an accelerator, from what is
shipped or from the start:

ipt pretrain --config=configs/pretrain_small.py --workdir=runs/more --config.data.dir=PHOTOS --config.init_from=WEIGHTS \
    --config.steps=50000 --config.batch_size=192 --config.model.dtype=bfloat16 --config.data.workers=8
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            steps=10000,
            batch_size=12,
            model=preset("ipt_small") | dict(remat="elementwise"),  # less memory to move: faster on a CPU, too
            data=dict(source="folder", held_out=4, flips=True),
            optim=dict(
                name="muon",
                schedule="cosine",
                learning_rate=2e-3,
                final_learning_rate=1e-6,
                warmup_steps=200,
                clip_norm=1.0,
                ema=0.999,
            ),
            checkpoint=dict(every=500),
            evaluate=dict(every=2000, pictures=2, size=256),
            log=dict(every=100),
        )
    )
