"""Set-up of all tests: eight simulated devices, a cache of compiled programs, benchmark images."""

from __future__ import annotations

import os
import pathlib
import signal

# pytest imports this module late, which fails inside the lazy imports of TFDS.
import tracemalloc  # noqa: F401

# These variables must be set before jax is imported.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
flags = os.environ.get("XLA_FLAGS", "")
if "xla_force_host_platform_device_count" not in flags:
    flags += " --xla_force_host_platform_device_count=8"
if "xla_backend_optimization_level" not in flags:
    # Halves the time of compiling, which is most of the tests' time.
    flags += " --xla_backend_optimization_level=0"
if "xla_cpu_multi_thread_eigen" not in flags:
    # Otherwise, eight devices share a small pool of threads, and XLA may deadlock on machines with
    # few cores. The tests run in parallel by processes.
    flags += " --xla_cpu_multi_thread_eigen=false"
if "xla_cpu_enable_concurrency_optimized_scheduler" not in flags:
    # This scheduler runs independent gathers of a device at the same time. With few threads, eight
    # devices may then wait for each other.
    flags += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
os.environ["XLA_FLAGS"] = flags.strip()

# Under nohup, SIGHUP is ignored by this process and by every process that a test starts.
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

HERE = pathlib.Path(__file__).parent
# Each program is compiled once for all tests, processes and workers.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(HERE.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

import pytest  # noqa: E402

# The names of all tests in the files that pytest has read, also of those that are not run.
COLLECTED = pytest.StashKey[set[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = {item.nodeid for item in items}


@pytest.fixture(scope="session")
def benchmarks() -> pathlib.Path:
    """Returns the folder of benchmark images; skips tests that need it if it does not exist."""
    folder = pathlib.Path(os.environ.get("IPT_TEST_DATA", "")) / "benchmarks"
    if not os.environ.get("IPT_TEST_DATA") or not folder.is_dir():
        pytest.skip(
            "needs the benchmark images: set IPT_TEST_DATA to a folder that contains "
            "benchmarks/Set5, ..."
        )
    return folder
