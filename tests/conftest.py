"""Shared by all tests: eight simulated devices, the benchmark pictures if there, small models,
compiled once.
"""

from __future__ import annotations

import os
import pathlib
import tracemalloc  # noqa: F401  pytest imports it late: inside TFDS's lazy imports that would fail

# Before jax is imported: simulated devices, and no look-out for accelerators.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    flags += " --xla_force_host_platform_device_count=8"
if "xla_backend_optimization_level" not in flags:
    # Halves the time to compile, which is most of the tests' time
    flags += " --xla_backend_optimization_level=0"
if "xla_cpu_multi_thread_eigen" not in flags:
    # Eight devices share one small pool of threads within operations, in which XLA has been seen to
    # deadlock on machines with few cores; the tests' parallelism is their processes.
    flags += " --xla_cpu_multi_thread_eigen=false"
if "xla_cpu_enable_concurrency_optimized_scheduler" not in flags:
    # It runs independent gathers of a device at once: with those threads alone, eight devices can
    # wait for one another's.
    flags += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
os.environ["XLA_FLAGS"] = flags.strip()

HERE = pathlib.Path(__file__).parent
# A program that another test, process or worker has compiled is not compiled again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def benchmarks() -> pathlib.Path:
    """The folder of benchmark pictures; tests that need it are skipped where IPT_TEST_DATA does not
    name it.
    """
    folder = pathlib.Path(os.environ.get("IPT_TEST_DATA", "")) / "benchmarks"
    if not os.environ.get("IPT_TEST_DATA") or not folder.is_dir():
        pytest.skip(
            "needs the benchmark pictures: set IPT_TEST_DATA to a folder that holds "
            "benchmarks/Set5, ..."
        )
    return folder
