"""The paper's deblurring model, 256x256 inputs, 8x8 patches, 9 features, on photographs blurred by
motion as they are read.

ipt pretrain --config=configs/pretrain_deblur.py --workdir=runs/deblur --config.data.dir=PHOTOS

The authors never released it, and the paper says no more than its geometry: 32x32 tokens of 576.
Straight motion of 3 to 31 pixels in every direction, then a little sensor noise.
configs/finetune_deblur.py goes on from it on GoPro.
"""

from ml_collections import ConfigDict

from ipt_jax.model import preset

BLUR = dict(
    name="deblur",
    degradation="chain",
    steps=[
        dict(degradation="motion_blur", length=(3, 31), angle=(0, 180)),
        dict(degradation="noise", sigma=(0, 3)),
    ],
)


def get_config(size: str = "ipt_deblur") -> ConfigDict:
    return ConfigDict(
        dict(
            steps=200_000,
            batch_size=32,
            tasks=(BLUR,),
            model=preset(size),
            data=dict(source="folder", held_out=8, flips=True, workers=8),
            loss=dict(contrastive="eq5", weight=0.1, group=2),
            optim=dict(
                schedule="step",
                learning_rate=5e-5,
                final_learning_rate=2e-5,
                warmup_steps=1000,
                clip_norm=1.0,
                ema=0.999,
            ),
            checkpoint=dict(every=2000),
            evaluate=dict(every=10_000, pictures=8, size=512, batch=4, overlap=64, best="psnr_y"),
            log=dict(every=100),
        )
    )
