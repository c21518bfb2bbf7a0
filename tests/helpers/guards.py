"""The test that guards each setting: it fails if the setting has no effect.

The names of the settings are those of settings_of.py. tests/test_every_setting.py compares the
tables with the parsers and the config's keys, and shows that each test fails without the effect.
"""

from __future__ import annotations

import settings_of

HELP = "tests/cli/test_app.py::test_every_command_explains_itself"
RESTORE = "tests/cli/test_flags_of_restore.py::"
AS_SETTING = f"{RESTORE}test_a_flag_of_restore_is_the_setting_of_the_same_name"
SCORES = f"{RESTORE}test_scores_differ_where_a_flag_says_so"
WEIGHTS = "tests/cli/test_flags_of_weights.py::"
TRAINING = "tests/cli/test_flags_of_training.py::"
OTHERS = "tests/cli/test_flags_of_others.py::"
PUSHING = "tests/cli/test_flags_of_push.py::"
PUSHED = "tests/export/test_push.py::"
LAUNCH = "tests/launch/test_scripts.py::"
KEY = "tests/train/test_every_key.py::"

_OF_AUTHORS = f"{RESTORE}test_heads_and_tasks_of_an_authors_file"
_AUTHORS_EVERYWHERE = f"{WEIGHTS}test_heads_and_tasks_of_an_authors_file_are_those_of_the_flags[4]"
_RAW = f"{WEIGHTS}test_raw_weights_are_not_their_average"
_BATCH = f"{WEIGHTS}test_batch_is_the_number_of_tiles_in_a_call_and_device"
_NAMED = f"{WEIGHTS}test_weights_are_those_that_are_named"
_EXPORT_FILES = f"{WEIGHTS}test_files_of_an_export"
_SERVE = f"{WEIGHTS}test_where_the_page_listens_and_what_it_refuses"
_BENCH_RESTORE = f"{WEIGHTS}test_bench_restore_measures_what_is_asked_for"
_INPUTS = f"{RESTORE}test_inputs_tasks_and_weights"
_NAMES = f"{RESTORE}test_names_and_formats_of_results"
_EVALUATION_FILES = f"{RESTORE}test_sets_and_files_of_an_evaluation"
_EVALUATION_DATA = f"{RESTORE}test_weights_and_data_of_an_evaluation"
_COMPILE = f"{OTHERS}test_flags_of_compile"
_CHECKING = f"{OTHERS}test_flags_of_checking"
_PACKING = f"{OTHERS}test_flags_of_packing"
_PACKED = f"{OTHERS}test_sets_are_packed_where_asked_and_checked"
_IMAGENET = f"{OTHERS}test_flags_of_preparing_imagenet"
_PREVIEW = f"{OTHERS}test_the_steps_and_files_of_a_preview"
_BENCH_DATA = f"{OTHERS}test_flags_of_bench_data"
_CONFIGS = f"{OTHERS}test_the_config_of_each_benchmark_is_the_one_that_is_named"
_BENCH_TILES = "tests/bench/test_restore.py::test_bench_restore_counts_tiles_and_pixels"
_BENCH_ATTENTION = "tests/bench/test_attention.py::test_kernels_are_compared_with_exact_attention"
_BENCH_STEP = "tests/bench/test_step.py::test_bench_prints_one_json_object_last"

# Flags by command: "flag flag": test.
FLAGS: dict[str, dict[str, str]] = {
    "ipt": {"--version": f"{OTHERS}test_the_version_is_printed"},
    "ipt evaluate": {
        "--weights --data": _EVALUATION_DATA,
        "--heads --weights-tasks": f"{WEIGHTS}test_scores_are_those_of_the_flags_heads_and_tasks",
        "--raw": f"{SCORES}[--raw]",
        "--sets --json --report --save-inputs": _EVALUATION_FILES,
        "--task": f"{SCORES}[--task=denoise50]",
        "--protocol": f"{SCORES}[--protocol=official]",
        "--overlap": f"{SCORES}[--overlap=9]",
        "--ensemble": f"{SCORES}[--ensemble]",
        "--batch": f"{_BATCH}[evaluate-2]",
        "--dtype": f"{SCORES}[--dtype=bfloat16]",
        "--seed": f"{SCORES}[--seed=1]",
        "--noise-clip": f"{SCORES}[--noise-clip=off]",
        "--limit": f"{SCORES}[--limit=1]",
        "--shard --merge": "tests/evaluate/test_parts.py::test_parts_together_are_the_whole",
        "--niqe": "tests/evaluate/test_niqe.py::test_a_column_in_table_json_and_report",
    },
    "ipt restore": {
        "INPUT --task --weights": _INPUTS,
        "--heads --weights-tasks": _OF_AUTHORS,
        "--raw": f"{AS_SETTING}[--raw]",
        "--out --format --compare": _NAMES,
        "--quality --background": f"{RESTORE}test_quality_and_background",
        "--overwrite": f"{RESTORE}test_a_result_is_made_again_only_if_asked_for",
        "--protocol": f"{AS_SETTING}[--protocol=official]",
        "--overlap": f"{AS_SETTING}[--overlap=9]",
        "--ensemble": f"{AS_SETTING}[--ensemble]",
        "--batch": f"{_BATCH}[restore-2]",
        "--dtype": f"{AS_SETTING}[--dtype=bfloat16]",
        "--max-megapixels": f"{RESTORE}test_inputs_that_are_too_large",
        "--shard": "tests/restore/test_shards.py::test_shards_together_are_the_whole",
    },
    "ipt serve": {
        "--weights": _NAMED,
        "--heads --weights-tasks": _AUTHORS_EVERYWHERE,
        "--raw": _RAW,
        "--host --port --max-megapixels": _SERVE,
    },
    "ipt import": {"FILE --out": _NAMED, "--task --heads": _AUTHORS_EVERYWHERE},
    "ipt export": {
        "--weights": _NAMED,
        "--heads --weights-tasks": _AUTHORS_EVERYWHERE,
        "--raw": _RAW,
        "--format --out --licence --scores": _EXPORT_FILES,
        "--task --dtype": f"{WEIGHTS}test_tasks_and_dtype_of_an_export",
        "--overwrite": f"{WEIGHTS}test_an_export_replaces_a_result_only_if_asked_to",
        "--layout": "tests/export/test_export.py::test_onnx_of_images_says_what_it_is",
    },
    "ipt push": {
        "--weights --raw": f"{PUSHING}test_weights_are_those_that_are_named",
        "--heads --weights-tasks": f"{PUSHING}test_heads_and_tasks_of_an_authors_file",
        "--task --dtype": f"{PUSHING}test_tasks_dtype_and_folder",
        "--licence --scores --weights-licence --base-model": f"{PUSHING}test_what_the_card_states",
        "--private --message": f"{PUSHED}test_what_is_pushed_can_be_loaded",
        "--revision": f"{PUSHED}test_a_branch_of_a_repository_that_exists",
        "--dry-run": f"{PUSHED}test_the_card_is_read_back",
    },
    "ipt doctor": {
        "--data-dir": "tests/cli/test_doctor.py::"
        "test_it_shows_versions_devices_and_sets_but_no_secrets"
    },
    "ipt compile": {
        "--config": _CONFIGS,
        "--topology --slices --batch-per-chip --utilisation --by-kind --json --hlo": _COMPILE,
    },
    "ipt data prepare imagenet2012": {"--manual-dir --data-dir --split": _IMAGENET},
    "ipt data prepare folder": {"SRC --out": _PACKED, "--shard-mb --threads": _PACKING},
    "ipt data check": {
        "SET --json": _PACKED,
        "--data-dir --split --crop --threads": _CHECKING,
        "--against --pairs": "tests/data/prepare/test_copies.py::"
        "test_the_command_names_copies_and_draws_the_closest_pairs",
    },
    "ipt data preview": {
        "--config --out --step": _PREVIEW,
        "--pairs": f"{OTHERS}test_pairs_and_place_of_a_preview",
    },
    "ipt bench step": {
        "--config": _CONFIGS,
        "--batch --dtype --devices --calls --json": f"{_BENCH_STEP}[step]",
    },
    "ipt bench forward": {
        "--config": _CONFIGS,
        "--batch --dtype --devices --calls --json": f"{_BENCH_STEP}[forward]",
    },
    "ipt bench attention": {
        "--config": _CONFIGS,
        "--samples --calls --interpret --json": _BENCH_ATTENTION,
    },
    "ipt bench data": {"--config": _CONFIGS, "--workers --crops --seconds --json": _BENCH_DATA},
    "ipt bench restore": {
        "--weights": _NAMED,
        "--heads --weights-tasks": _AUTHORS_EVERYWHERE,
        "--raw": _RAW,
        "--calls --protocol --ensemble --dtype": _BENCH_RESTORE,
        "--task --size --overlap --batch --json": _BENCH_TILES,
    },
}
for _command in ("pretrain", "finetune"):
    _place = f"{TRAINING}test_the_place_among_several_processes"
    FLAGS[f"ipt {_command}"] = {
        "--config --workdir": f"{TRAINING}test_config_and_workdir[{_command}]",
        "--force-config": f"{TRAINING}test_another_config_is_used_only_if_forced[{_command}]",
        "--help-config": f"tests/config/test_reference.py::test_help_config[{_command}]",
        "--stopped-code": f"{TRAINING}test_the_exit_code_of_a_run_that_was_stopped[{_command}]",
        "--coordinator": f"{_place}[--coordinator-{_command}]",
        "--num-processes": f"{_place}[--num-processes-{_command}]",
        "--process-id": f"{_place}[--process-id-{_command}]",
        "--start-timeout": f"{TRAINING}test_how_long_to_wait_for_other_processes[{_command}]",
    }

# Scripts: most flags have a row in one table.
_ROWS = {
    "tpu": "--name --zone --type --version --project --network --service-account --spot",
    "relaunch": "--name --zone --project",
    "gke": "--cluster --zone --type --name --image --project --slices --restarts --spot",
    "slurm": "--nodes --gpus --cpus --time --partition --account --name --environment",
    "local": "--processes --devices --port --gpus",
}
for _script, _flags in _ROWS.items():
    FLAGS[f"launch/{_script}.sh"] = {
        **{
            flag: f"{LAUNCH}test_a_flag_changes_what_a_dry_run_prints[{_script}.sh{flag}]"
            for flag in _flags.split()
        },
        "--dry-run": f"{LAUNCH}test_a_dry_run_runs_nothing[{_script}]",
        "--help": f"{LAUNCH}test_help_and_unknown_arguments[{_script}]",
    }
FLAGS["launch/tpu.sh"] |= {
    "--wait": f"{LAUNCH}test_what_fails_half_way_leaves_no_tpu[waits]",
    "--keep": f"{LAUNCH}test_a_slice_is_kept_if_asked_for",
}
FLAGS["launch/relaunch.sh"] |= {
    "--times": f"{LAUNCH}test_how_often_a_command_is_started",
    "--faults": f"{LAUNCH}test_a_command_that_keeps_failing_is_given_up",
}
FLAGS["launch/slurm.sh"] |= {
    "--again": f"{LAUNCH}test_a_stopped_slurm_job_goes_back_into_the_queue",
    "--follow": f"{LAUNCH}test_following_a_slurm_job_ends_with_its_code",
}

_BATCHES = """seed batch_size tasks model.tile data.source data.dir data.held_out data.draw
    data.crops data.flips loss.group"""
_NETWORK = """model.features model.patch model.heads model.encoder_layers model.decoder_layers
    model.hidden model.input_scale model.dtype model.out_bias model.norm_eps model.memory_norm"""
_RATES = """optim.learning_rate optim.final_learning_rate optim.schedule optim.schedule_steps
    optim.warmup_steps optim.drop_at optim.decay_start optim.decay_steps"""
_STEP = """sharding model.remat loss.contrastive loss.weight loss.temperature optim.clip_norm
    optim.ema optim.accumulate optim.max_spike finetune.freeze finetune.lora_rank
    finetune.lora_alpha finetune.lora_targets"""
_EVALUATION = "evaluate.pictures evaluate.size evaluate.batch evaluate.overlap"
_LENGTH = "steps checkpoint.every log.every log.tensorboard"
_KEPT = "checkpoint.keep checkpoint.keep_every"
_EARLY = "evaluate.every evaluate.best evaluate.patience"

# Config keys: "key key": test; a test with several cases has one for each key.
KEYS: dict[str, str] = {
    **{key: f"{KEY}test_a_key_changes_the_batches[{key}]" for key in _BATCHES.split()},
    **{key: f"{KEY}test_a_key_changes_the_network[{key}]" for key in _NETWORK.split()},
    **{key: f"{KEY}test_a_key_changes_the_learning_rate[{key}]" for key in _RATES.split()},
    **{key: f"{KEY}test_a_key_changes_the_step[{key}]" for key in _STEP.split()},
    **dict.fromkeys(_LENGTH.split(), f"{KEY}test_how_long_a_run_is_and_what_it_logs"),
    **dict.fromkeys(_KEPT.split(), f"{KEY}test_which_checkpoints_are_kept"),
    **dict.fromkeys(_EARLY.split(), f"{KEY}test_when_a_run_is_evaluated_and_stops_early"),
    **{key: f"{KEY}test_a_key_changes_the_evaluation[{key}]" for key in _EVALUATION.split()},
    "data.threads": f"{KEY}test_a_key_changes_how_batches_are_made_ahead[data.threads-4]",
    "data.prefetch": f"{KEY}test_a_key_changes_how_batches_are_made_ahead[data.prefetch-9]",
    "data.name": f"{KEY}test_a_key_chooses_a_tfds_set[data.name-other]",
    "data.split": f"{KEY}test_a_key_chooses_a_tfds_set[data.split-train[4:]]",
    "epochs": f"{KEY}test_a_key_changes_the_number_of_steps[epochs-6-18]",
    "data.epoch_crops": f"{KEY}test_a_key_changes_the_number_of_steps[data.epoch_crops-5-15]",
    "devices": f"{KEY}test_devices_are_as_many_as_asked_for",
    "init_from": f"{KEY}test_a_run_starts_from_weights",
    "finetune.new": f"{KEY}test_a_run_starts_from_weights",
    "branch_from": f"{KEY}test_a_branch_continues_after_the_step_that_is_named",
    "model.attention": f"{KEY}test_a_kernel_that_cannot_run_here_is_refused",
    "model.start": f"{KEY}test_the_start_of_the_network_is_the_one_that_is_named",
    "data.workers": f"{KEY}test_worker_processes_make_the_batches",
    "data.stalled": f"{KEY}test_data_that_do_not_come_end_the_run",
    "data.max_bad": f"{KEY}test_images_that_cannot_be_read_end_the_run",
    "optim.name": "tests/step/test_optim.py::test_adam_by_its_formula[muon-changes0]",
    "optim.b1": "tests/step/test_optim.py::test_adam_by_its_formula[adam-changes1]",
    "optim.b2": "tests/step/test_optim.py::test_adam_by_its_formula[adam-changes2]",
    "optim.eps": "tests/step/test_optim.py::test_adam_by_its_formula[adam-changes3]",
    "finetune.unfreeze": "tests/model/test_trainable.py::"
    "test_what_is_unfrozen_is_trained_all_the_same",
    "optim.max_skipped": f"{KEY}test_steps_without_effect_end_the_run",
    "checkpoint.max_failed": f"{KEY}test_saves_that_fail_end_the_run",
    "log.wandb": "tests/run_folder/test_weights_and_biases.py::test_a_resumed_run_keeps_its_id",
    "log.profile": "tests/train/test_loop.py::test_a_trace_of_the_steps_that_log_profile_names",
    "log.stacks_after": f"{KEY}test_the_time_after_which_the_stacks_are_written",
}

# The name of a setting: its test.
GUARDS: dict[str, str] = {
    **{f"{command} --help": f"{HELP}[{command}]" for command in settings_of.parsers()},
    **{
        f"{command} {flag}": test
        for command, flags in FLAGS.items()
        for names, test in flags.items()
        for flag in names.split()
    },
    **KEYS,
}
