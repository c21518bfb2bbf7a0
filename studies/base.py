"""The config that all studies vary: ipt_small, six tasks, 12 samples a step.

A run takes about three minutes on two cores.
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config() -> ConfigDict:
    """Returns the config."""
    return ConfigDict(
        dict(
            steps=600,
            batch_size=12,
            model=preset("ipt_small") | dict(remat="elementwise"),
            data=dict(source="folder", held_out=0, flips=True),
            optim=dict(
                schedule="cosine",
                learning_rate=1e-3,
                final_learning_rate=1e-5,
                warmup_steps=50,
                clip_norm=1.0,
                ema=0.98,
            ),
            checkpoint=dict(every=200, keep=1),
            evaluate=dict(every=0),
            log=dict(every=20, tensorboard=False),
        )
    )
