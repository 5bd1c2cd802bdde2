"""Options of XLA for the training step on GPUs."""

import functools
import os
from collections.abc import Iterable
from typing import Any

import jax

from rsclip_jax.training.progress import log

# Given to the compilation, not to the environment, where one that XLA does not know ends the
# process.
OPTIONS: dict[str, Any] = {
    # config.model.remat says what is computed twice. XLA would choose more by itself: to save 0.5
    # of 62 GiB it repeated half of the products of a step (fusionrs.py:L/14), without a word.
    "xla_disable_hlo_passes": "rematerialization",
}
OPTIONS_OF_SEVERAL: dict[str, Any] = {
    # With mesh.fsdp the parameters of a layer are gathered while the one before it computes. A loop
    # over layers gathers them at the beginning of its turn otherwise, and waits.
    "xla_gpu_enable_pipelined_all_gather": True,
    # Processes that have the step from the cache wait in its first collective for those that
    # compile it: 40 s by default. One that died is noticed otherwise (distributed.HEARTBEAT_S).
    "xla_gpu_first_collective_call_terminate_timeout_seconds": 1800,
}


def compile_for(
    lowered: jax.stages.Lowered, devices: Iterable[Any], **more: Any
) -> jax.stages.Compiled:
    """Compile with the options for these devices; what XLA does not know is left out.

    Flags that the user has in XLA_FLAGS win, one by one.

    Args:
      lowered: the traced program.
      devices: of its mesh.
      more: options besides, for any devices.
    """
    options = options_for(devices, os.environ.get("XLA_FLAGS", ""))
    while True:
        try:
            compiled = lowered.compile(compiler_options={**options, **more})
        except jax.errors.JaxRuntimeError as error:
            unknown = [
                name for name in options if f"No such compile option: '{name}'" in str(error)
            ]
            if not unknown:
                raise
            del options[unknown[0]]
            _say(f"this XLA has no option {unknown[0]}: left out")
            continue
        if options:
            _say(f"XLA: {', '.join(f'{k}={v}' for k, v in options.items())} (XLA_FLAGS overrides)")
        return compiled


def options_for(devices: Iterable[Any], xla_flags: str) -> dict[str, Any]:
    """Return the options for these devices that `xla_flags` does not name."""
    platforms = [device.platform for device in devices]
    if platforms[0] != "gpu":
        return {}
    given = {flag.lstrip("-").split("=")[0] for flag in xla_flags.split()}
    options = OPTIONS | OPTIONS_OF_SEVERAL if len(platforms) > 1 else OPTIONS
    return {name: value for name, value in options.items() if name not in given}


@functools.cache  # a run may compile several steps
def _say(line: str) -> None:
    log(line)
