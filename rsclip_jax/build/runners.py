"""Where pipelines run: on this machine, or on what --runner and --runner_options name."""

import datetime
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment

from rsclip_jax.build import files
from rsclip_jax.host import available_cores

LOCAL = "local"
PARENT = "RSCLIP_BUILD_PARENT"  # see worker.py
_FEW_PARTS = 4  # are done before other processes have started


class Runner:
    """Makes pipelines.

    `local` is Beam's FnApiRunner: processes on all cores, no download. Beam's own default, called
    DirectRunner, first tries to fetch the Prism binary, and without it works on one core.

    Args:
      name: `local`, or a runner of Beam: DataflowRunner, FlinkRunner, SparkRunner, ...
      options: Beam's options as on a command line, "--project=... --region=...".
      workers: processes of the local runner; 0: one for each core.
    """

    def __init__(self, name: str = LOCAL, options: str = "", workers: int = 0):
        self.name = name
        self.is_local = name == LOCAL
        self._options = shlex.split(options)
        self._workers = workers or available_cores()

    def pipeline(self, job: str, parts: int, scratch: str) -> beam.Pipeline:
        """Return an empty pipeline.

        Args:
          job: its name, where the runner shows one.
          parts: into how many pieces its input can be cut: no more processes are started.
          scratch: directory that is made for the local runner's `shuffle`, and removed.
        """
        if not self.is_local:
            options = [f"--runner={self.name}", *self._options]
            if not any(option.startswith("--job_name") for option in options):
                options.append(f"--job_name=rsclip-{job.replace('_', '-')}")
            return beam.Pipeline(options=PipelineOptions(options))
        # What fails is raised; the logs would tell it twice.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        workers = min(self._workers, parts)
        if not files.is_local(scratch):
            scratch = os.path.join(tempfile.gettempdir(), f"rsclip_build_{os.getpid()}")
        if parts < _FEW_PARTS or workers == 1:
            return beam.Pipeline(_Local(scratch), PipelineOptions(self._options))
        os.environ[PARENT] = str(os.getpid())
        command = f"exec {shlex.quote(sys.executable)} -m rsclip_jax.build.worker"
        environment = SubprocessSDKEnvironment.from_command_string(command)
        return beam.Pipeline(
            _Local(scratch, environment),
            PipelineOptions(self._options, direct_num_workers=workers),
        )


class _Local(FnApiRunner):
    """Beam's local runner, with a directory for `shuffle`."""

    def __init__(self, scratch: str, environment: SubprocessSDKEnvironment | None = None):
        super().__init__(environment)
        self.scratch = scratch

    def run_pipeline(self, pipeline, options):
        shutil.rmtree(self.scratch, ignore_errors=True)  # of one that was killed
        os.makedirs(self.scratch)
        try:
            return super().run_pipeline(pipeline, options)
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)


class Progress:
    """A line on stderr now and then with the rows that a stage has written, by their file names.

    Args:
      name: the stage.
      directory: where it writes.
      rows: that it reads, 0 if nobody knows.
    """

    INTERVAL = 10.0

    def __init__(self, name: str, directory: str, rows: int):
        self._name, self._directory, self._rows = name, directory, rows
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _work(self) -> None:
        start, before = time.monotonic(), self.written()
        while not self._done.wait(self.INTERVAL):
            print(self.line(before, time.monotonic() - start), file=sys.stderr, flush=True)

    def line(self, before: int, seconds: float) -> str:
        """Return the line; `before` rows were there `seconds` ago."""
        rows = self.written()
        known = f" of {self._rows:,}" if self._rows else ""
        line = f"{self._name}: {rows:,}{known} rows, {seconds:,.0f} s"
        if self._rows and rows > before:
            left = seconds * (self._rows - rows) / (rows - before)
            line += f", ETA {datetime.timedelta(seconds=round(left))}"
        return line

    def written(self) -> int:
        """Count the rows, kept and dropped."""
        names = files.list_files(self._directory)
        names += files.list_files(files.join(self._directory, "dropped"))
        found = (re.search(r"-(\d+)\.(parquet|array_record)$", name) for name in names)
        return sum(int(match[1]) for match in found if match)
