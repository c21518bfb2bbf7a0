"""All six tasks in each step, or one random task a step as in the paper, for as many samples."""

from studies.study import Study, Variant, main

STUDY = Study(
    "tasks_a_step",
    "Six tasks in each step, or one at random?",
    (
        Variant("six tasks a step"),
        Variant("one random task a step", ("data.draw=one",)),
    ),
    against=("samples", "seconds"),
)

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
