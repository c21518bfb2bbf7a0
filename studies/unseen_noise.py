"""Noise of sigma 10 and 70, for models trained on sigma 30 and 50 (table 4 of the paper)."""

from studies.study import Study, Variant, main

STUDY = Study(
    "unseen_noise",
    "Does a model for sigma 30 and 50 restore sigma 10 and 70?",
    (
        Variant("six tasks"),
        Variant("denoising alone", ("tasks=('denoise30','denoise50')", "loss.contrastive=none")),
    ),
    scored=("denoise30@10", "denoise30", "denoise50", "denoise50@70"),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
