"""Pre-training on six tasks and fine-tuning on one, against training on that task alone.

Both see the same number of samples.
"""

from studies.study import Study, Variant, main

SIX = Variant("six tasks")
TUNED = ("loss.contrastive=none", "optim.learning_rate=5e-4")


def _pair(task: str) -> tuple[Variant, Variant]:
    alone = (f"tasks=({task!r},)", "loss.contrastive=none")
    return (
        Variant(f"{task} alone", alone, length=1.5),
        Variant(f"six tasks, then {task}", (f"tasks=({task!r},)", *TUNED), after=SIX, length=0.5),
    )


STUDY = Study(
    "pretraining",
    "Pre-trained on six tasks and fine-tuned, or trained on one alone?",
    (*_pair("sr2"), *_pair("denoise50")),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
