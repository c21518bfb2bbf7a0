"""The table of config keys: the only place where a key is defined.

The defaults, the checks, the rules for resumed runs, `--help-config` and `docs/config.md` all read
this table, so a new key is one entry here. Importing this module imports neither jax nor flax nor
optax, so choices are literals; a test compares them with the modules that implement them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ipt_jax.errors import ConfigError
from ipt_jax.messages import nearest
from ipt_jax.model.presets import preset
from ipt_jax.tasks import PAPER_TASKS

# The types of values, as messages and the reference name them.
TYPES: dict[type, str] = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    tuple: "a list",
}


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number. A bound that is None does not apply.

    Attributes:
      minimum: the smallest value.
      above: a bound that the value must exceed.
      maximum: the largest value.
      below: a bound that the value must stay under.
      or_zero: whether 0 is allowed besides.
      note: what the number stands for, for messages.
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    below: float | None = None
    or_zero: bool = False
    note: str = ""

    def __contains__(self, value: float) -> bool:
        """Whether a number lies within the bounds; NaN never does."""
        return (self.or_zero and value == 0) or (
            (self.minimum is None or value >= self.minimum)
            and (self.above is None or value > self.above)
            and (self.maximum is None or value <= self.maximum)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """The bounds in words: "at least 1", "above 0 and at most 1", "0 or above 1"."""
        words = {
            "at least": self.minimum,
            "above": self.above,
            "at most": self.maximum,
            "below": self.below,
        }
        text = " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)
        return f"0 or {text}" if self.or_zero else text


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
      name: the dotted name, such as "optim.learning_rate".
      default: the value of a config that does not set the key; its type is the key's type.
      help: what the key sets, in one line.
      allowed: bounds of a number, the choices of a string, or None where any value of the type is
        accepted or only a check of several keys can tell.
      resume: whether a resumed run may change the key. A change of another key makes another run.
      branch: whether a branch of a run (`branch_from`) may change the key though a resumed run may
        not.
      per_host: whether the key may differ between the processes of a run.
    """

    name: str
    default: Any
    help: str
    allowed: Range | tuple[str, ...] | None = None
    resume: bool = False
    branch: bool = False
    per_host: bool = False

    @property
    def group(self) -> str:
        """The part of the name before the dot, or ""."""
        return self.name.rpartition(".")[0]

    def convert(self, value: Any) -> Any:
        """Returns the value as the key's type.

        An integer is accepted for a number, anything for a string, and for a list also a single
        mapping or a string of names with commas between them.

        Raises:
          ConfigError: the value does not fit the type.
        """
        kind = type(self.default)
        if kind is tuple:
            if isinstance(value, str):
                return tuple(value.split(","))
            if isinstance(value, Mapping):
                return (value,)
            if isinstance(value, (list, tuple)):
                return tuple(value)
        if kind is float and type(value) is int:
            return float(value)
        if kind is str:
            return str(value)
        if type(value) is not kind:
            raise ConfigError(
                f"{self.name} must be {TYPES[kind]} (default: {self.default!r}), not {value!r}"
            )
        return value

    def check(self, value: Any) -> None:
        """Checks a value of the key's type against the bounds or choices.

        Raises:
          ConfigError: the value is not allowed; the message says what is.
        """
        if self.allowed is None or value in self.allowed:
            return
        if isinstance(self.allowed, Range):
            note = f" ({self.allowed.note})" if self.allowed.note else ""
            raise ConfigError(f"{self.name} must be {self.allowed}{note}, not {value!r}")
        raise unknown_choice(self.name, value, self.allowed)


def unknown_choice(name: str, value: Any, choices: tuple[str, ...]) -> ConfigError:
    """The error for a value that is not among the choices; it names the nearest one."""
    return ConfigError(
        f"{name}: unknown {value!r}{nearest(str(value), choices)}; known: {', '.join(choices)}"
    )


_COUNT = Range(minimum=1)
_NOT_NEGATIVE = Range(minimum=0)
_POSITIVE = Range(above=0)
_MODEL = preset("ipt")

# The groups of keys and their titles, in the order of the table.
GROUPS = {
    "": "Run",
    "model": "Network",
    "data": "Data",
    "loss": "Loss",
    "optim": "Optimiser",
    "finetune": "Fine-tuning",
    "checkpoint": "Checkpoints",
    "evaluate": "Evaluation during training",
    "log": "Log",
}

TABLE = (
    Key("steps", 1000, "Number of steps to train for.", _COUNT, resume=True),
    Key(
        "seed",
        0,
        "Seed of the data's order and degradations and of the parameters' start.",
        _NOT_NEGATIVE,
    ),
    Key("batch_size", 24, "Samples in a step, over all tasks and hosts.", _COUNT),
    Key(
        "tasks",
        PAPER_TASKS,
        "Names of tasks, or {name, degradation, ...} dicts for tasks that the package does not "
        "define.",
    ),
    Key(
        "epochs",
        0,
        "Length of the run in epochs, which replaces steps; an epoch takes data.epoch_crops crops "
        "of each image. 0: steps counts.",
        _NOT_NEGATIVE,
        resume=True,
    ),
    Key(
        "init_from",
        "",
        "Weights to start with: a run, a weights folder or a file. Empty: a fresh start.",
        resume=True,
    ),
    Key(
        "branch_from",
        "",
        "RUN@STEP, a checkpoint whose state a new run continues: parameters, moments, EMA, step "
        "and position in the data.",
        resume=True,
    ),
    Key(
        "devices",
        0,
        "Number of this host's devices to use. 0: all devices of all hosts.",
        _NOT_NEGATIVE,
        resume=True,
    ),
    Key(
        "sharding",
        "data",
        "Layout of the training state: data keeps a full copy on each device, zero1 splits the "
        "optimiser's moments and the EMA over the devices, fsdp splits the "
        "large arrays over the devices.",
        ("data", "zero1", "fsdp"),
        resume=True,
    ),
    Key(
        "model.features",
        _MODEL["features"],
        "Features of heads and tails; a token has features * patch^2 numbers.",
        _COUNT,
    ),
    Key("model.patch", _MODEL["patch"], "Side of a patch in pixels.", _COUNT),
    Key("model.heads", _MODEL["heads"], "Attention heads; they divide the token's width.", _COUNT),
    Key("model.encoder_layers", _MODEL["encoder_layers"], "Encoder layers.", _NOT_NEGATIVE),
    Key("model.decoder_layers", _MODEL["decoder_layers"], "Decoder layers.", _NOT_NEGATIVE),
    Key("model.hidden", _MODEL["hidden"], "Hidden width of the feed-forward blocks.", _COUNT),
    Key(
        "model.tile",
        _MODEL["tile"],
        "Side of the network's input in pixels, a multiple of model.patch.",
        _COUNT,
    ),
    Key(
        "model.start",
        _MODEL["start"],
        "Initialisation: torch is that of the authors' code, identity starts with a network that "
        "returns its input.",
        ("torch", "identity"),
    ),
    Key(
        "model.input_scale",
        _MODEL["input_scale"],
        "Factor between pixel values in 0..255 and the numbers that the network computes with.",
        _POSITIVE,
    ),
    Key(
        "model.dtype",
        _MODEL["dtype"],
        "Type of the computation; parameters, LayerNorm and softmax stay float32.",
        ("float32", "bfloat16"),
    ),
    Key(
        "model.remat",
        _MODEL["remat"],
        "What the backward pass computes again to save memory: nothing, elementwise operations, "
        "everything but matrix products with parameters (dots), or entire layers.",
        ("none", "elementwise", "dots", "layer"),
        resume=True,
    ),
    Key(
        "model.attention",
        _MODEL["attention"],
        "How attention is computed: fused into one kernel on TPUs where that is possible (auto), "
        "by plain matrix products, or by the kernel for TPUs (fused) or GPUs (cudnn) or not at "
        "all.",
        ("auto", "plain", "fused", "cudnn"),
        resume=True,
    ),
    Key(
        "model.out_bias",
        _MODEL["out_bias"],
        "Whether the output projections of attention have a bias, as in some published files.",
    ),
    Key(
        "model.norm_eps",
        _MODEL["norm_eps"],
        "Epsilon of LayerNorm: 1e-5 in PyTorch, 1e-7 in the published MindSpore code.",
        _POSITIVE,
    ),
    Key(
        "model.memory_norm",
        _MODEL["memory_norm"],
        "Whether LayerNorm is applied to what cross-attention reads, as in the paper but not in "
        "the authors' code.",
    ),
    Key(
        "data.source",
        "folder",
        "Kind of training data: photographs of an installed package (embedded), a folder of "
        "images, a folder of lq/hq pairs, a packed set, or a TFDS data set.",
        ("embedded", "folder", "pairs", "packed", "tfds"),
    ),
    Key(
        "data.dir",
        "",
        "Folder of the images, of the pairs or of the packed set, or data_dir of TFDS.",
        resume=True,
        per_host=True,
    ),
    Key("data.name", "imagenet2012", "Name of the TFDS data set."),
    Key("data.split", "train", "Split of the TFDS data set."),
    Key(
        "data.held_out",
        4,
        "Images excluded from training and kept for evaluation.",
        _NOT_NEGATIVE,
    ),
    Key(
        "data.draw",
        "all",
        "Tasks of a step: all of them, or one drawn at random as in the paper.",
        ("all", "one"),
    ),
    Key("data.crops", 1, "Crops for each task from an image that was decoded once.", _COUNT),
    Key(
        "data.epoch_crops",
        0,
        "Crops for each task from an image in an epoch. 0: data.crops, which is one pass over the "
        "images.",
        _NOT_NEGATIVE,
    ),
    Key("data.flips", False, "Whether crops are flipped and transposed at random."),
    Key(
        "data.workers",
        0,
        "Processes that make batches. 0: threads of the training process make them.",
        _NOT_NEGATIVE,
        resume=True,
        per_host=True,
    ),
    Key(
        "data.threads",
        2,
        "Threads that make batches when data.workers is 0.",
        _COUNT,
        resume=True,
        per_host=True,
    ),
    Key(
        "data.prefetch",
        2,
        "Batches that each worker makes ahead.",
        _COUNT,
        resume=True,
        per_host=True,
    ),
    Key(
        "data.stalled",
        1800.0,
        "Seconds without a batch after which the run stops.",
        Range(above=0, note="seconds"),
        resume=True,
        per_host=True,
    ),
    Key(
        "data.max_bad",
        0.2,
        "Share of unreadable images, which are replaced, above which the run stops.",
        Range(minimum=0, maximum=1, note="a share of the images"),
        resume=True,
    ),
    Key(
        "loss.contrastive",
        "eq5",
        "Contrastive loss: the paper's equation 5, SupCon as in the published MindSpore code, or "
        "none.",
        ("eq5", "supcon", "none"),
    ),
    Key(
        "loss.weight",
        0.1,
        "Weight lambda of the contrastive loss beside an L1 loss in 0..255.",
        _NOT_NEGATIVE,
    ),
    Key(
        "loss.group",
        2,
        "Images of one task that the contrastive loss compares with each other.",
        Range(minimum=2, note="the contrastive loss compares different images"),
    ),
    Key("loss.temperature", 0.07, "Temperature of SupCon."),
    Key(
        "optim.name",
        "adam",
        "Optimiser: Adam as in the paper, or Muon, which orthogonalises the momentum of matrices.",
        ("adam", "muon"),
    ),
    Key("optim.learning_rate", 5e-5, "Learning rate after the warm-up.", _POSITIVE, branch=True),
    Key(
        "optim.final_learning_rate",
        2e-5,
        "Learning rate at the end of the schedules cosine, step and wsd.",
        branch=True,
    ),
    Key(
        "optim.schedule",
        "step",
        "Learning rate after the warm-up: cosine falls, step changes once (optim.drop_at), "
        "constant stays, wsd stays and then decays (optim.decay_start).",
        ("cosine", "step", "constant", "wsd"),
        branch=True,
    ),
    Key(
        "optim.schedule_steps",
        0,
        "Length of the schedules cosine and step. 0: the value of steps when the run begins.",
        _NOT_NEGATIVE,
        branch=True,
    ),
    Key(
        "optim.warmup_steps",
        0,
        "Steps over which the learning rate rises linearly.",
        _NOT_NEGATIVE,
        branch=True,
    ),
    Key(
        "optim.drop_at",
        2 / 3,
        "Share of optim.schedule_steps after which the schedule step changes to the final learning "
        "rate.",
        Range(above=0, maximum=1, note="a share of optim.schedule_steps"),
        branch=True,
    ),
    Key(
        "optim.decay_start",
        0,
        "Step at which the schedule wsd begins to decay. 0: never.",
        _NOT_NEGATIVE,
        branch=True,
    ),
    Key(
        "optim.decay_steps",
        0,
        "Steps that the decay of the schedule wsd takes.",
        _NOT_NEGATIVE,
        branch=True,
    ),
    Key("optim.b1", 0.9, "Adam's decay of the first moment."),
    Key("optim.b2", 0.999, "Adam's decay of the second moment."),
    Key("optim.eps", 1e-8, "Adam's epsilon."),
    Key(
        "optim.clip_norm",
        0.0,
        "Largest norm of all gradients together; larger ones are scaled down. 0: no clipping.",
        _NOT_NEGATIVE,
    ),
    Key(
        "optim.ema",
        0.0,
        "Decay of the exponential moving average (EMA) of the weights. 0: no EMA.",
        Range(minimum=0, below=1),
    ),
    Key("optim.accumulate", 1, "Micro-batches into which a step is split to save memory.", _COUNT),
    Key(
        "optim.max_spike",
        0.0,
        "A step whose loss exceeds the recent mean by this factor changes nothing. 0: every finite "
        "step counts.",
        Range(above=1, or_zero=True, note="a multiple of the recent mean of the loss"),
    ),
    Key(
        "optim.max_skipped",
        20,
        "Consecutive steps that changed nothing after which the run stops.",
        _COUNT,
        resume=True,
    ),
    Key(
        "finetune.new",
        "identity",
        "Start of tasks that init_from lacks: identity, torch, or one of its tasks to copy; "
        "TASK=RULE,... sets single tasks.",
    ),
    Key(
        "finetune.freeze",
        (),
        "Patterns of parameter paths that are not trained: body, */tail, task_sr2/embedding.",
    ),
    Key(
        "finetune.unfreeze",
        (),
        "Patterns of frozen parameters that are trained all the same: body/*bias, body/*norm*.",
    ),
    Key(
        "finetune.lora_rank",
        0,
        "Rank of LoRA adapters on the body, which is frozen then. 0: no adapters.",
        _NOT_NEGATIVE,
    ),
    Key("finetune.lora_alpha", 8.0, "Adapters are scaled by alpha / rank.", _POSITIVE),
    Key(
        "finetune.lora_targets",
        ("*attention",),
        "Patterns of the body's matrices that get an adapter.",
    ),
    Key("checkpoint.every", 1000, "Steps between checkpoints.", _COUNT, resume=True),
    Key("checkpoint.keep", 3, "Number of the newest checkpoints to keep.", _COUNT, resume=True),
    Key(
        "checkpoint.keep_every",
        0,
        "Checkpoints at multiples of this step are kept as well. 0: none.",
        _NOT_NEGATIVE,
        resume=True,
    ),
    Key(
        "checkpoint.max_failed",
        3,
        "Failed saves in a row after which the run stops.",
        _COUNT,
        resume=True,
    ),
    Key(
        "evaluate.every",
        5000,
        "Steps between evaluations on held-out images. 0: no evaluation, not even at the end.",
        _NOT_NEGATIVE,
        resume=True,
    ),
    Key("evaluate.pictures", 4, "Largest number of held-out images to score.", _COUNT, resume=True),
    Key(
        "evaluate.size",
        512,
        "Side in pixels to which larger images are cropped at their centre. 0: full images.",
        _NOT_NEGATIVE,
        resume=True,
    ),
    Key("evaluate.batch", 16, "Tiles in a batch on each device.", _COUNT, resume=True),
    Key(
        "evaluate.overlap",
        12,
        "Pixels by which neighbouring tiles overlap; less than model.tile.",
        _NOT_NEGATIVE,
        resume=True,
    ),
    Key(
        "evaluate.best",
        "",
        "Metric whose best checkpoint is kept: psnr_y, psnr_rgb, ssim_y or ssim_rgb, the mean over "
        "all tasks, or TASK/METRIC. Empty: none.",
        resume=True,
    ),
    Key(
        "evaluate.patience",
        0,
        "Evaluations without a better score after which the run stops. 0: it never stops early.",
        _NOT_NEGATIVE,
        resume=True,
    ),
    Key("log.every", 50, "Steps between lines of the log.", _COUNT, resume=True),
    Key(
        "log.profile",
        "",
        "Steps of which a trace is written, FIRST:LAST, for TensorBoard's profile plug-in. Empty: "
        "none.",
        resume=True,
    ),
    Key("log.tensorboard", True, "Whether TensorBoard events are written.", resume=True),
    Key(
        "log.stacks_after",
        600.0,
        "Seconds without a finished step after which the stacks of all threads are written. 0: "
        "never.",
        _NOT_NEGATIVE,
        resume=True,
    ),
)

KEYS: dict[str, Key] = {key.name: key for key in TABLE}
