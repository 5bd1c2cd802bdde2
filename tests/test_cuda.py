"""What a user is told of NVIDIA's GPUs; drivers and packages are stood in for."""

import logging
from types import SimpleNamespace

import jax
import pytest

from rsclip_jax import cuda

JAXLIB = jax.lib.__version__
FITTING = {"jax-cuda13-plugin": JAXLIB, "jax-cuda13-pjrt": JAXLIB}
CPU, GPU = ([SimpleNamespace(platform=name)] for name in ("cpu", "gpu"))


@pytest.fixture
def machine(monkeypatch):
    """Return a function that makes this a machine with such a driver, packages and devices."""
    logger = logging.getLogger("jax._src.xla_bridge")
    asked = jax.config.values["jax_platforms"]

    def make(driver="", packages=None, devices=CPU, says="", platforms="", fails=None):
        def start():
            if says:
                logger.warning(says)
            if fails:
                raise fails
            return devices

        monkeypatch.setattr(cuda, "here", lambda: bool(driver))
        monkeypatch.setattr(cuda, "driver", lambda: driver)
        monkeypatch.setattr(cuda, "packages", lambda: packages or {})
        monkeypatch.setattr(jax, "devices", start)
        jax.config.update("jax_platforms", platforms)

    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield make
    jax.config.update("jax_platforms", asked)


def failure() -> str:
    with pytest.raises(cuda.DeviceError) as caught:
        cuda.start_devices()
    message = str(caught.value)
    assert "\n" not in message and "JAX_PLATFORMS=cpu" in message
    return message


def test_a_gpu_without_cuda_packages_is_no_cpu_run(machine):
    machine(driver="580.65.06")
    assert f"not installed: pip install 'jax[cuda13]=={jax.__version__}'" in failure()
    machine(driver="550.54.14")
    assert f"pip install 'jax[cuda12]=={jax.__version__}'" in failure()


def test_a_driver_too_old_for_the_packages_is_named_with_both_ways_out(machine):
    machine(driver="550.54.14", packages=FITTING)
    message = failure()
    assert "driver 550.54.14" in message and "580 or newer" in message
    assert "pip uninstall jax-cuda13-plugin jax-cuda13-pjrt" in message
    assert "jax[cuda12]" in message
    machine(driver="470.42.01", packages=FITTING)
    assert "too old for any CUDA of JAX: it needs 525" in failure()


@pytest.mark.parametrize(
    "packages", [FITTING | {"jax-cuda13-pjrt": "0.1"}, {"jax-cuda13-pjrt": JAXLIB}]
)
def test_packages_that_do_not_fit_together_are_listed(machine, packages):
    machine(driver="580.65.06", packages=packages)
    message = failure()
    assert f"jaxlib {JAXLIB}" in message
    assert all(f"{name} {version}" in message for name, version in packages.items())


def test_what_jax_says_is_told_where_nothing_else_explains_it(machine):
    machine(driver="580.65.06", packages=FITTING, says="cuDNN is too old\nmore")
    assert "JAX says: cuDNN is too old;" in failure()
    machine(driver="580.65.06", packages=FITTING, fails=RuntimeError("no memory"))
    assert "JAX says: no memory;" in failure()


def test_another_cuda_in_the_library_path_is_suspected(machine, monkeypatch, tmp_path):
    (tmp_path / "libcudnn.so.8").touch()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}:")
    machine(driver="580.65.06", packages=FITTING)
    assert f"({tmp_path})" in failure() and "unset LD_LIBRARY_PATH" in failure()
    machine(driver="580.65.06", packages=FITTING, devices=GPU)
    (note,) = cuda.start_devices()
    assert str(tmp_path) in note


def test_the_cpu_is_used_where_it_is_asked_for_or_there_is_nothing_else(machine, monkeypatch):
    machine(driver="580.65.06", packages=FITTING, platforms="cpu")
    assert cuda.start_devices() == []
    machine()
    assert cuda.start_devices() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    machine(driver="580.65.06", packages=FITTING)
    assert "CUDA_VISIBLE_DEVICES" in cuda.start_devices()[0]


def test_a_login_node_trains_on_the_cpu_and_says_so_without_jaxs_traceback(machine, caplog):
    machine(packages=FITTING, says="Unable to load cuPTI")
    (note,) = cuda.start_devices()
    assert "no NVIDIA GPU here" in note and not caplog.records


def test_other_words_of_jax_are_passed_on(machine, caplog):
    machine(driver="580.65.06", packages=FITTING, devices=GPU, says="cuBLAS has an issue")
    assert cuda.start_devices() == []
    assert [record.getMessage() for record in caplog.records] == ["cuBLAS has an issue"]


def test_devices_that_are_asked_for_and_absent_are_an_error(machine):
    machine(platforms="cuda", fails=AssertionError())
    assert "JAX_PLATFORMS=cuda: JAX cannot start, no NVIDIA GPU is here" in failure()
    machine(platforms="tpu", fails=RuntimeError("no libtpu"))
    assert "JAX_PLATFORMS=tpu: JAX cannot start, no libtpu" in failure()
    machine(driver="580.65.06", platforms="cuda", fails=RuntimeError("unknown"))
    assert "JAX's CUDA packages are not installed" in failure()


@pytest.mark.parametrize(
    "kind", ["NVIDIA UNIX x86_64 Kernel Module ", "NVIDIA UNIX Open Kernel Module for x86_64 "]
)
def test_the_drivers_version_is_read(tmp_path, kind):
    path = tmp_path / "version"
    path.write_text(f"NVRM version: {kind} 580.65.06  Release Build\nGCC version: gcc 11.4.0\n")
    assert cuda.driver(str(path)) == "580.65.06"
    assert cuda.driver(str(tmp_path / "none")) == ""
    assert cuda.here([str(path)]) and not cuda.here([str(tmp_path / "none")])


def test_errors_of_nccl_come_with_what_to_set():
    with pytest.raises(RuntimeError) as caught, cuda.explained():
        raise RuntimeError("INTERNAL: NCCL operation ncclCommInitRank failed")
    assert "NCCL_DEBUG=INFO" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError) as caught, cuda.explained():
        raise RuntimeError("another")
    assert not hasattr(caught.value, "__notes__")
