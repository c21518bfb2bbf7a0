"""Super-resolution x4: fine-tuning on a folder of clean pictures, such as DIV2K's 800.

ipt finetune --config=configs/finetune_sr4.py --workdir=runs/sr4 --config.init_from=WEIGHTS
--config.data.dir=DIV2K_train_HR

The paper's recipe: Adam, 30 epochs at 2e-5, L1. An epoch is 64 crops of each picture, about what
covers one of DIV2K once. The network's size is that of the weights; a preset after the colon
(configs/finetune_sr4.py:tiny) is for `ipt pretrain`, which starts the same run from scratch.
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config(size: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            epochs=30,
            batch_size=256,
            tasks=("sr4",),
            **({"model": preset(size)} if size else {}),
            data=dict(source="folder", held_out=8, flips=True, epoch_crops=64),
            loss=dict(contrastive="none"),
            optim=dict(schedule="constant", learning_rate=2e-5, final_learning_rate=2e-5),
            checkpoint=dict(every=500),
            evaluate=dict(every=500, pictures=8, size=256, best="psnr_y"),
            log=dict(every=25),
        )
    )
