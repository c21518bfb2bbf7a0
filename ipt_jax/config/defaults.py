"""Every config key with its default."""

from __future__ import annotations

from ml_collections import ConfigDict

from ipt_jax.model.presets import preset
from ipt_jax.tasks import PAPER_TASKS


def default() -> ConfigDict:
    """Every key of a training config, with its default."""
    return ConfigDict(
        dict(
            # Batches to take
            steps=1000,
            # Of the data, and of the parameters' start
            seed=0,
            # Samples a step, all tasks and hosts together
            batch_size=24,
            # Names, or {name, degradation, ...} dicts (tasks.py)
            tasks=PAPER_TASKS,
            # Instead of steps; an epoch is data.epoch_crops crops of each picture
            epochs=0,
            # WEIGHTS whose parameters to start with
            init_from="",
            # RUN@STEP whose whole state to start with: parameters, moments, EMA, step, place in the
            # data
            branch_from="",
            # Of this host; 0 = all, of all hosts
            devices=0,
            # Of the state: data (whole on each device) or fsdp (large leaves in pieces)
            sharding="data",
            # Model/ipt.py
            model=preset("ipt"),
            data=dict(
                # Embedded, folder, pairs, packed or tfds
                source="folder",
                # The folder of pictures or of pairs, the packed set, or TFDS's data_dir
                dir="",
                # Of a TFDS set
                name="imagenet2012",
                # Of a TFDS set
                split="train",
                # Pictures kept from training, for evaluation
                held_out=4,
                # Tasks of a step: all, or one drawn at random as in the paper
                draw="all",
                # Of each task from a decoded picture
                crops=1,
                # Of each task from a picture in an epoch; 0 = data.crops, one pass over the
                # pictures
                epoch_crops=0,
                # Flips and transpositions at random
                flips=False,
                # Processes that make batches; 0 = threads of this one
                workers=0,
                # Without workers
                threads=2,
                # Batches made ahead, by each worker
                prefetch=2,
                # Seconds without a batch before the run stops
                stalled=1800.0,
                # Share of pictures that may be unreadable (and replaced) before the run stops
                max_bad=0.2,
            ),
            loss=dict(
                # Eq5, supcon or none
                contrastive="eq5",
                # Lambda, for an L1 in 0..255
                weight=0.1,
                # Pictures in a contrastive group
                group=2,
                # Of supcon
                temperature=0.07,
            ),
            optim=dict(
                # Adam, or muon (optim.py)
                name="adam",
                learning_rate=5e-5,
                final_learning_rate=2e-5,
                # Cosine, step, constant or wsd (optim.py)
                schedule="step",
                # Its length; 0 = steps when the run begins
                schedule_steps=0,
                warmup_steps=0,
                # Share of schedule_steps at which "step" changes to final_learning_rate
                drop_at=2 / 3,
                # Step at which "wsd" begins to decay; 0 = never
                decay_start=0,
                # Length of that decay
                decay_steps=0,
                b1=0.9,
                b2=0.999,
                eps=1e-8,
                # Of all gradients together; 0 = off
                clip_norm=0.0,
                # Decay of the moving average of the weights; 0 = off
                ema=0.0,
                # Micro-batches a step
                accumulate=1,
                # A step whose loss is that many times the recent mean changes nothing; 0 = off
                max_spike=0.0,
                # Steps in a row that changed nothing before the run stops
                max_skipped=20,
            ),
            finetune=dict(
                # Ends of tasks that init_from lacks: identity, torch, or a task of it to copy
                # (finetune.py)
                new="identity",
                # Patterns of parameters' paths that stay as they are: body, */tail,
                # task_sr2/embedding
                freeze=(),
                # And of those among them that are trained all the same: body/*bias, body/*norm*
                unfreeze=(),
                # Of adapters on the body, which is frozen then (adapt.py); 0 = none
                lora_rank=0,
                # An adapter counts alpha / rank times
                lora_alpha=8.0,
                # Patterns of the body's matrices that get one
                lora_targets=("*attention",),
            ),
            checkpoint=dict(
                # Steps
                every=1000,
                # The last so many
                keep=3,
                # And each step that this divides; 0 = none
                keep_every=0,
            ),
            evaluate=dict(
                # Steps; 0 = not at all, the end included
                every=5000,
                # Held-out pictures to score, at most
                pictures=4,
                # Larger ones are cut to their middle; 0 = whole
                size=512,
                # Tiles a call, for each device
                batch=16,
                # Pixels by which tiles overlap
                overlap=12,
                # Metric whose best checkpoint is kept: psnr_y, ..., the mean over tasks, or
                # TASK/psnr_y; "" = none
                best="",
                # Evaluations without a better one after which the run stops; 0 = never
                patience=0,
            ),
            log=dict(
                # Steps between two lines
                every=50,
                tensorboard=True,
                # Seconds without a step's end after which all threads' stacks are written; 0 =
                # never
                stacks_after=600.0,
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
