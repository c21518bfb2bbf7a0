"""The paper's deblurring model on photographs that are blurred by motion as they are read.

    ipt pretrain --config=configs/pretrain_deblur.py --workdir=runs/deblur --config.data.dir=PHOTOS

The model takes inputs of 256x256 in patches of 8x8 with 9 features, which gives 32x32 tokens of
width 576. The paper describes only this geometry, and the authors have not released the weights.
The degradation is straight motion of 3 to 31 pixels in any direction, followed by weak sensor
noise. configs/finetune_deblur.py fine-tunes the result on GoPro.
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
