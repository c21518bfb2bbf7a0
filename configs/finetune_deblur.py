"""Deblurring: fine-tuning on pairs, such as GoPro's 2,103 (SCENE/blur + SCENE/sharp), in the
paper's geometry.

ipt finetune --config=configs/finetune_deblur.py --workdir=runs/deblur --config.init_from=WEIGHTS
--config.data.dir=GoPro/train

The paper's recipe: Adam, 30 epochs at 2e-5, L1. An epoch is 12 crops of 256x256 of each pair, about
what covers one once. WEIGHTS are those of configs/pretrain_deblur.py, which has the same task name:
the authors never released theirs. The network's size is that of the weights; a preset after the
colon (configs/finetune_deblur.py:tiny) is for `ipt pretrain`, which starts the same run from
scratch.
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config(size: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            epochs=30,
            batch_size=32,
            tasks=({"name": "deblur", "degradation": "pairs"},),
            **({"model": preset(size)} if size else {}),
            data=dict(source="pairs", held_out=8, flips=True, epoch_crops=12),
            loss=dict(contrastive="none"),
            optim=dict(schedule="constant", learning_rate=2e-5, final_learning_rate=2e-5),
            checkpoint=dict(every=500),
            evaluate=dict(every=500, pictures=8, size=512, batch=4, overlap=32, best="psnr_y"),
            log=dict(every=25),
        )
    )
