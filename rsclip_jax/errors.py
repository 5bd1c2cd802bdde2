"""How a command ends: a line for what its user can mend, a traceback for faults of the program."""

import contextlib
import dataclasses
import dis
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

TRACEBACK_VARIABLE = "RSCLIP_JAX_TRACEBACK"  # set to 1, it shows where a user's error was raised
# The packages whose `raise ValueError` is an answer to the user; the last is a --config file.
OURS = ("rsclip_jax", "configs", "launch", "__main__", "config_config")
_FRAMES = "has removed its internal frames"  # a note of JAX and of Grain on errors
OUT_OF_MEMORY = (
    "a device is out of memory: take a smaller batch (--config.input.batch_size, --batch_size of "
    "evaluate and export); in training --config.model.remat=auto --config.grad_cache_steps=0 take "
    "what fits, and --config.mesh.fsdp shares the model between devices"
)


def told(error: BaseException) -> str:
    """Return what a user is told of an error they can mend, its notes included; "" for a fault.

    A user's are: files and packages that are missing or cannot be read, non-finite training, too
    little memory of a device, exceptions of our own classes, and each ValueError that a `raise` of
    ours has raised. Those that NumPy, JAX or Python raise are faults, for nobody has written them
    for a user.
    """
    if os.environ.get(TRACEBACK_VARIABLE):
        return ""
    notes = [note for note in getattr(error, "__notes__", []) if _FRAMES not in note]
    lines = [str(error), *notes]
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return f"{OUT_OF_MEMORY} ({str(error).splitlines()[0]})"
    ours = type(error).__module__.split(".")[0] in OURS
    users = isinstance(error, OSError | ImportError | FloatingPointError)
    if ours or users or (isinstance(error, ValueError) and _on_purpose(error)):
        return "\n".join(lines)
    return ""


def _on_purpose(error: BaseException) -> bool:
    """Tell whether a `raise` statement of OURS has raised an error, not a call that went wrong."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next:
        trace = trace.tb_next
    frame = trace.tb_frame
    raised = frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raised and frame.f_globals.get("__name__", "").split(".")[0] in OURS


def report(error: BaseException) -> str:
    """Return what is printed of an error: what the user is told, or the traceback."""
    return told(error) or "".join(traceback.format_exception(error)).rstrip()


@contextlib.contextmanager
def one_line(command: str, again: str = "") -> Iterator[None]:
    """End the program with `COMMAND: what is wrong` and status 1 at an error the user can mend.

    Ctrl-C ends it with a line and status 130. All other errors keep their traceback.

    Args:
      command: its name.
      again: what the same command does after Ctrl-C: "begins again".
    """
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGINT, Leave(command, again))
    try:
        yield
    except Exception as error:
        if text := told(error):
            sys.exit(f"{command}: {text}")
        raise
    finally:
        if previous is not None:
            signal.signal(signal.SIGINT, previous)


@dataclasses.dataclass(frozen=True)
class Leave:
    """A handler of Ctrl-C that says so and ends the process, from any thread.

    An orderly end would run Python's clean-up beside threads of XLA that are still computing, and
    crash; what the commands write is whole at any moment.
    """

    command: str
    again: str = ""

    def __call__(self, number: int = signal.SIGINT, frame: object = None) -> None:
        """End the process with status 130."""
        again = f"; the same command {self.again}" if self.again else ""
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of a print
            sys.stdout.flush()
        os.write(2, f"\n{self.command}: interrupted{again}\n".encode())
        os._exit(130)
