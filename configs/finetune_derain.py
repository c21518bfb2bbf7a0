"""Deraining: fine-tuning on pairs, such as RainTrainL's 200 (rainy/ + clean/, or rain-x +
norain-x).

ipt finetune --config=configs/finetune_derain.py --workdir=runs/derain --config.init_from=WEIGHTS
--config.data.dir=RainTrainL

The paper's recipe: Adam, 30 epochs at 2e-5, L1. An epoch is 64 crops of each pair, about what
covers one once. The network's size is that of the weights; a preset after the colon
(configs/finetune_derain.py:tiny) is for `ipt pretrain`, which starts the same run from scratch.
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config(size: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            epochs=30,
            batch_size=256,
            tasks=("derain",),
            **({"model": preset(size)} if size else {}),
            data=dict(source="pairs", held_out=8, flips=True, epoch_crops=64),
            loss=dict(contrastive="none"),
            optim=dict(schedule="constant", learning_rate=2e-5, final_learning_rate=2e-5),
            checkpoint=dict(every=500),
            evaluate=dict(every=500, pictures=8, size=256, best="psnr_y"),
            log=dict(every=25),
        )
    )
