"""Every config key with its default."""

from __future__ import annotations

from ml_collections import ConfigDict

from ipt_jax.model.presets import preset
from ipt_jax.tasks import PAPER_TASKS


def default() -> ConfigDict:
    """Every key of a training config, with its default."""
    return ConfigDict(
        dict(
            steps=1000,  # batches to take
            seed=0,  # of the data, and of the parameters' start
            batch_size=24,  # samples a step, all tasks and hosts together
            tasks=PAPER_TASKS,  # names, or {name, degradation, ...} dicts (tasks.py)
            epochs=0,  # instead of steps; an epoch is data.epoch_crops crops of each picture
            init_from="",  # WEIGHTS whose parameters to start with
            branch_from="",  # RUN@STEP whose whole state to start with: parameters, moments, EMA, step, place in the data
            devices=0,  # of this host; 0 = all, of all hosts
            sharding="data",  # of the state: data (whole on each device) or fsdp (large leaves in pieces)
            model=preset("ipt"),  # model/ipt.py
            data=dict(
                source="folder",  # embedded, folder, pairs, packed or tfds
                dir="",  # the folder of pictures or of pairs, the packed set, or TFDS's data_dir
                name="imagenet2012",  # of a TFDS set
                split="train",  # of a TFDS set
                held_out=4,  # pictures kept from training, for evaluation
                draw="all",  # tasks of a step: all, or one drawn at random as in the paper
                crops=1,  # of each task from a decoded picture
                epoch_crops=0,  # of each task from a picture in an epoch; 0 = data.crops, one pass over the pictures
                flips=False,  # flips and transpositions at random
                workers=0,  # processes that make batches; 0 = threads of this one
                threads=2,  # without workers
                prefetch=2,  # batches made ahead, by each worker
                stalled=1800.0,  # seconds without a batch before the run stops
                max_bad=0.2,  # share of pictures that may be unreadable (and replaced) before the run stops
            ),
            loss=dict(
                contrastive="eq5",  # eq5, supcon or none
                weight=0.1,  # lambda, for an L1 in 0..255
                group=2,  # pictures in a contrastive group
                temperature=0.07,  # of supcon
            ),
            optim=dict(
                name="adam",  # adam, or muon (optim.py)
                learning_rate=5e-5,
                final_learning_rate=2e-5,
                schedule="step",  # cosine, step, constant or wsd (optim.py)
                schedule_steps=0,  # its length; 0 = steps when the run begins
                warmup_steps=0,
                drop_at=2 / 3,  # share of schedule_steps at which "step" changes to final_learning_rate
                decay_start=0,  # step at which "wsd" begins to decay; 0 = never
                decay_steps=0,  # length of that decay
                b1=0.9,
                b2=0.999,
                eps=1e-8,
                clip_norm=0.0,  # of all gradients together; 0 = off
                ema=0.0,  # decay of the moving average of the weights; 0 = off
                accumulate=1,  # micro-batches a step
                max_spike=0.0,  # a step whose loss is that many times the recent mean changes nothing; 0 = off
                max_skipped=20,  # steps in a row that changed nothing before the run stops
            ),
            finetune=dict(
                new="identity",  # ends of tasks that init_from lacks: identity, torch, or a task of it to copy (finetune.py)
                freeze=(),  # patterns of parameters' paths that stay as they are: body, */tail, task_sr2/embedding
                unfreeze=(),  # and of those among them that are trained all the same: body/*bias, body/*norm*
                lora_rank=0,  # of adapters on the body, which is frozen then (adapt.py); 0 = none
                lora_alpha=8.0,  # an adapter counts alpha / rank times
                lora_targets=("*attention",),  # patterns of the body's matrices that get one
            ),
            checkpoint=dict(
                every=1000,  # steps
                keep=3,  # the last so many
                keep_every=0,  # and each step that this divides; 0 = none
            ),
            evaluate=dict(
                every=5000,  # steps; 0 = not at all, the end included
                pictures=4,  # held-out pictures to score, at most
                size=512,  # larger ones are cut to their middle; 0 = whole
                batch=16,  # tiles a call, for each device
                overlap=12,  # pixels by which tiles overlap
                best="",  # metric whose best checkpoint is kept: psnr_y, ..., the mean over tasks, or TASK/psnr_y; "" = none
                patience=0,  # evaluations without a better one after which the run stops; 0 = never
            ),
            log=dict(
                every=50,  # steps between two lines
                tensorboard=True,
                stacks_after=600.0,  # seconds without a step's end after which all threads' stacks are written; 0 = never
            ),
        )
    )


# What a resumed run may change (prefixes of dotted keys); anything else makes it another run.
MAY_CHANGE = (
    "steps",
    "epochs",
    "devices",
    "sharding",
    "data.dir",
    "data.workers",
    "data.threads",
    "data.prefetch",
    "data.max_bad",
    "data.stalled",
    "checkpoint.",
    "evaluate.",
    "log.",
    "optim.max_skipped",
    "init_from",
    "branch_from",
)

# What a branch of a run (branch_from) may change besides.
BRANCH_MAY_CHANGE = (
    "optim.schedule",
    "optim.schedule_steps",
    "optim.learning_rate",
    "optim.final_learning_rate",
    "optim.warmup_steps",
    "optim.drop_at",
    "optim.decay_start",
    "optim.decay_steps",
)
