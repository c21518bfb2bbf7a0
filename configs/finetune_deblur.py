r"""Deblurring in the paper's geometry: fine-tuning on pairs, such as the 2,103 of GoPro.

    ipt finetune --config=configs/finetune_deblur.py --workdir=runs/deblur \
        --config.init_from=WEIGHTS --config.data.dir=GoPro/train

The recipe is the paper's: Adam, 30 epochs at 2e-5, L1 loss. An epoch takes 12 crops of 256x256 of
each pair, which together have about its area. The pairs lie in SCENE/blur and SCENE/sharp. WEIGHTS
are those of a run of configs/pretrain_deblur.py, which has the same task; the authors have not
released theirs. The network has the size of the weights. The preset after the colon
(configs/finetune_deblur.py:tiny) sets the size for `ipt pretrain`, which trains the same config
from scratch.
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
