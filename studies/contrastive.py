"""The contrastive loss: its weight (table 5 of the paper), and equation 5 against SupCon."""

from studies.study import Study, Variant, main

STUDY = Study(
    "contrastive",
    "What does the contrastive loss add?",
    (
        Variant("lambda 0", ("loss.contrastive=none",)),
        Variant("eq. 5, lambda 0.05", ("loss.weight=0.05",)),
        Variant("eq. 5, lambda 0.1"),
        Variant("eq. 5, lambda 0.2", ("loss.weight=0.2",)),
        Variant("SupCon, lambda 0.1", ("loss.contrastive=supcon",)),
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
