"""The amount of data: 20 to 100 % of the training photographs (figure 6 of the paper)."""

from studies.study import Study, Variant, main

STUDY = Study(
    "photographs",
    "How much are more photographs worth?",
    tuple(
        Variant(
            f"{percent} % of the photographs" if percent < 100 else "all photographs",
            share=percent / 100,
        )
        for percent in (20, 40, 60, 80, 100)
    ),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
