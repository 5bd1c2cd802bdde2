"""Joining the processes of one run before anything else touches JAX."""

import os

import jax

HEARTBEAT_S = 60  # without a sign of life of one process for so long, the others stop


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
      ValueError: some of the arguments without the others.
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
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_S)


def told_by_cluster() -> bool:
    """Tell whether the environment names other processes of this run."""
    tasks = max(int(os.environ.get(name) or 1) for name in _TASKS)
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return tasks > 1 or len(hosts) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in os.environ


_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
