r"""Deraining: fine-tuning on pairs, such as the 200 of RainTrainL.

    ipt finetune --config=configs/finetune_derain.py --workdir=runs/derain \
        --config.init_from=WEIGHTS --config.data.dir=RainTrainL

The recipe is the paper's: Adam, 30 epochs at 2e-5, L1 loss. An epoch takes 64 crops of each pair,
which together have about its area. The pairs lie in the folders rainy/ and clean/, or side by side
as rain-x and norain-x. The network has the size of the weights. The preset after the colon
(configs/finetune_derain.py:tiny) sets the size for `ipt pretrain`, which trains the same config
from scratch.
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
