"""A tiny IPT on the photographs that scikit-image ships; it takes some minutes on two cores.

ipt pretrain --config=configs/demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            steps=240,
            batch_size=24,
            model=preset("tiny"),
            data=dict(source="embedded", flips=True),
            optim=dict(
                schedule="cosine",
                learning_rate=1e-3,
                final_learning_rate=1e-5,
                warmup_steps=24,
                clip_norm=1.0,
                ema=0.99,
            ),
            checkpoint=dict(every=80),
            evaluate=dict(every=240, pictures=1),
            log=dict(every=10),
        )
    )
