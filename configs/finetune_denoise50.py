r"""Denoising at sigma 50: fine-tuning on a folder of clean images, such as the 800 of DIV2K.

    ipt finetune --config=configs/finetune_denoise50.py --workdir=runs/denoise50 \
        --config.init_from=WEIGHTS --config.data.dir=DIV2K_train_HR

The recipe is the paper's: Adam, 30 epochs at 2e-5, L1 loss. An epoch takes 256 crops of each image,
which together have about a quarter of the area of a DIV2K image. The network has the size of the
weights. The preset after the colon (configs/finetune_denoise50.py:tiny) sets the size for `ipt
pretrain`, which trains the same config from scratch.
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset


def get_config(size: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            epochs=30,
            batch_size=256,
            tasks=("denoise50",),
            **({"model": preset(size)} if size else {}),
            data=dict(source="folder", held_out=8, flips=True, epoch_crops=256),
            loss=dict(contrastive="none"),
            optim=dict(schedule="constant", learning_rate=2e-5, final_learning_rate=2e-5),
            checkpoint=dict(every=500),
            evaluate=dict(every=500, pictures=8, size=256, best="psnr_y"),
            log=dict(every=25),
        )
    )
