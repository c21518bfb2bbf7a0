"""Studies of pre-training. Each compares variants of a run, and has a command:

    python -m studies.NAME --photos DIR --out runs/studies

NAME is tasks_a_step, contrastive, photographs, pretraining, unseen_noise, starts or body. The
results are in docs/studies.md.
"""
