"""Does pre-training work, and what in it? One command a study:

python -m studies.NAME --photos DIR --out runs/studies

NAME is one of tasks_a_step, contrastive, photographs, pretraining, unseen_noise, starts, body. What
they found is in docs/studies.md.
"""
