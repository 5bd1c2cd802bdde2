"""Eight simulated CPU devices for every test, set before JAX starts.

Most of the suite's time is compilation: it is done without optimising, and what one test has
compiled the others load from a cache.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers of pytest-xdist share one cache
    _cache = tempfile.TemporaryDirectory(prefix="rsclip_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from absl import flags

flags.FLAGS.mark_as_parsed()  # Grain's worker processes read absl flags.

import no_network
import pytest
from browser import browser, page  # noqa: F401 - fixtures

from rsclip_jax.data import train_sentencepiece
from rsclip_jax.data.synthetic import write_scenes

no_network.refuse()

# They come first, so that no process is left alone with one of them at the end.
LONGEST = (
    "test_benchmark_gpu",
    "test_fusionrs",
    "test_hosts",
    "test_resume",
    "test_fit",
    "test_loop",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the modules that take longest begin."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def without_network() -> Iterator[None]:
    """Fail a test in which something reached for another machine, though the error was caught."""
    no_network.tried.clear()
    yield
    assert not no_network.tried


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> str:
    """Return a data directory with the data set "scenes": 96 for training, 24 held out, 32 px.

    With it comes words.model, a vocabulary of 400 for its captions: CLIP's 49,408 tokens would be
    nine tenths of a small model.
    """
    data_dir = str(tmp_path_factory.mktemp("data"))
    write_scenes(data_dir, "scenes", train=96, val=24, seed=0, size=32)
    captions = train_sentencepiece.dataset_captions(data_dir, "scenes", "train")
    Path(data_dir, "words.model").write_bytes(train_sentencepiece.train(captions, 400, "bpe"))
    return data_dir
