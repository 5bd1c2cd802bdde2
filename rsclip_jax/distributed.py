"""Joining the processes of one run before anything else touches JAX, and stopping together."""

import argparse
import contextlib
import faulthandler
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rsclip_jax import errors

# Without a sign of life of one process for so long, the others stop, all within a minute. A thread
# of JAX's own gives the signs: compiling, saving or waiting for data do not keep it from them.
HEARTBEAT_S = 40

# The flags by which the commands are told of other processes: name -> default, help.
FLAGS: dict[str, tuple[Any, str]] = {
    "coordinator_address": (
        "",
        "HOST:PORT of process 0, of several (SLURM, Open MPI and TPU pods tell without).",
    ),
    "num_processes": (0, "How many processes."),
    "process_id": (-1, "Which of them this is."),
    "distributed": (False, "One process on each host of a Cloud TPU."),
}


@contextlib.contextmanager
def joined(given: Any, again: str) -> Iterator[None]:
    """Join the other processes of this run, if there are any; an error ends them all.

    A process that ends before the others, in whatever way, says in its last line what to do.

    Args:
      given: has the values of FLAGS as attributes.
      again: what the same command does once more, for that line: "begins again".
    """
    arguments = {name: getattr(given, name) for name in FLAGS}
    if jax.distributed.is_initialized():  # who has done so looks after the process
        yield
        return
    if not (arguments["num_processes"] > 1 or arguments["distributed"] or told_by_cluster()):
        join(**arguments)
        yield
        return
    witness = _witness(
        "rsclip_jax: this process has failed, or lost another one of its run (see above, and the "
        f"logs of the others). None works alone: all stop. The same command for all {again}."
    )
    if faulthandler.is_enabled():  # by absl; the threads of an abort are pages, and not at fault
        faulthandler.enable(all_threads=False)
    try:
        join(**arguments)
        yield
    except BaseException as error:
        print(errors.report(error), file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # an orderly exit would wait for the others, which wait for this process
    witness.communicate(b"ended\n")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add FLAGS to the flags of a command."""
    group = parser.add_argument_group("several processes")
    for name, (default, meaning) in FLAGS.items():
        kind: dict[str, Any] = {"type": type(default), "default": default}
        if default is False:
            kind = {"action": "store_true"}
        group.add_argument(f"--{name}", help=meaning, **kind)


def _witness(last_words: str) -> subprocess.Popen:
    """Start a program that prints `last_words` should this process end without telling it.

    JAX aborts a process that has lost another one, from a thread that no Python code can reach.
    """
    script = 'read -r told; test -n "$told" || printf "%s\\n" "$0" >&2'
    return subprocess.Popen(
        ["sh", "-c", script, last_words],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not meant for it
    )


def join(
    coordinator_address: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    distributed: bool = False,
) -> None:
    """Join the other processes of this run, if there are any.

    They are found by the arguments, else in what SLURM (`srun`), Open MPI (`mpirun`) or GKE tell
    their processes. On its own, a process does not wait for others.

    Args:
      coordinator_address: HOST:PORT of process 0, the same for all of them.
      num_processes: how many there are.
      process_id: which of them this is, from 0.
      distributed: there are others, and JAX will find them: on the hosts of a Cloud TPU, which
        ask its metadata server.

    Raises:
      ValueError: some of the arguments without the others; or Open MPI does not tell where the
        first process is.
    """
    given = (bool(coordinator_address), num_processes > 0, process_id >= 0)
    if any(given) and not all(given):
        raise ValueError(
            f"--coordinator_address={coordinator_address!r}, --num_processes={num_processes}, "
            f"--process_id={process_id}: give all three, or none where the cluster tells"
        )
    if all(given):
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_S,
        )
    elif distributed or told_by_cluster():
        jax.distributed.initialize(**_open_mpi(), heartbeat_timeout_seconds=HEARTBEAT_S)


def told_by_cluster() -> bool:
    """Tell whether the environment names other processes of this run."""
    tasks = max(int(os.environ.get(name) or 1) for name in _TASKS)
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return tasks > 1 or len(hosts) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ


_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")


def _open_mpi() -> dict[str, Any]:
    """Return what Open MPI 5 tells of the others; JAX itself reads what version 4 tells.

    Raises:
      ValueError: it does not tell where the first process is.
    """
    told = os.environ
    if "OMPI_COMM_WORLD_SIZE" not in told or "OMPI_MCA_orte_hnp_uri" in told:
        return {}
    rank = int(told["OMPI_COMM_WORLD_RANK"])
    address = told.get("JAX_COORDINATOR_ADDRESS", "")
    if not address:
        # The name of the job holds the host and the process of mpirun.
        job = told.get("PMIX_NAMESPACE", "")
        match = re.fullmatch(r"prte(?:run)?-(.+)-(\d+)@\d+", job)
        here = told.get("PMIX_HOSTNAME", "")
        if not match or (rank == 0 and here.split(".")[0] != match[1].split(".")[0]):
            raise ValueError(
                f"Open MPI does not tell where process 0 is (PMIX_NAMESPACE={job!r}; process "
                f"{rank} is on {here!r}): give its host and a free port, as in mpirun -x "
                "JAX_COORDINATOR_ADDRESS=HOST:PORT ..."
            )
        address = f"{match[1]}:{61440 + int(match[2]) % 4096}"
    return {
        "coordinator_address": address,
        "num_processes": int(told["OMPI_COMM_WORLD_SIZE"]),
        "process_id": rank,
        # One GPU for each process, as JAX does it for version 4.
        "local_device_ids": [int(told["OMPI_COMM_WORLD_LOCAL_RANK"])],
    }


def gather(value: Any) -> list[Any]:
    """Return the `value` of every process, in their order; all of them must call this.

    Args:
      value: what JSON can hold.
    """
    if jax.process_count() == 1:
        return [value]
    own = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([len(own)]))[:, 0]
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: len(own)] = own
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]
