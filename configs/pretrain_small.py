r"""The model that the package ships: the paper's six tasks and four more, on lossless photographs.

    ipt pretrain --config=configs/pretrain_small.py --workdir=runs/small --config.data.dir=PHOTOS

PHOTOS holds the images of CID22 (CC BY-SA 4.0), of GB82 (CC0) and 41 of CLIC 2025 (Unsplash
licence), some 270 in all, and 24 synthetic images (benchmarks/synthetic_images.py). The run has no
fixed end: the learning rate stays constant after the warm-up, and repeating the command with a
larger --config.steps continues the run. The shipped weights come from a branch of the run, in which
the learning rate decays:

    ipt pretrain --config=configs/pretrain_small.py --workdir=runs/small-30k \
        --config.data.dir=PHOTOS --config.branch_from=runs/small@30000 --config.steps=36000 \
        --config.optim.decay_start=30000 --config.optim.decay_steps=6000

On an accelerator, from the shipped weights (without init_from: from scratch):

    ipt pretrain --config=configs/pretrain_small.py --workdir=runs/more --config.data.dir=PHOTOS \
        --config.init_from=WEIGHTS --config.steps=50000 --config.batch_size=200 \
        --config.model.dtype=bfloat16 --config.data.workers=8
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset
from ipt_jax.tasks import PAPER_TASKS


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            steps=100_000,
            batch_size=20,
            tasks=(*PAPER_TASKS, "denoise", "jpeg", "photo2", "deblur"),
            # Storing fewer activations moves less memory, which is faster on a CPU as well.
            model=preset("ipt_small") | dict(remat="elementwise"),
            data=dict(source="folder", held_out=4, flips=True),
            optim=dict(
                name="muon",
                schedule="wsd",
                learning_rate=2e-3,
                final_learning_rate=1e-6,
                warmup_steps=200,
                clip_norm=1.0,
                ema=0.999,
            ),
            checkpoint=dict(every=500, keep_every=10_000),
            evaluate=dict(every=2000, pictures=4, size=256),
            log=dict(every=100),
        )
    )
