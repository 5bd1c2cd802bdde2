"""A worker process of the local runner: Beam's, but silent, and it dies with the one it works for.

Started by `runners`, not by hand.
"""

import json
import logging
import os
import signal
import sys
import threading
import time

# It would greet with thirty lines. What fails is raised where the pipeline was started.
logging.getLogger().addHandler(logging.NullHandler())

from apache_beam.runners.worker import sdk_worker_main  # noqa: E402

from rsclip_jax.build.runners import PARENT  # noqa: E402


def _die_with_parent(parent: int) -> None:
    """Without it, workers of a killed process would go on with their bundle, maybe for hours."""
    while True:
        time.sleep(1)
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os._exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    arguments = (int(os.environ[PARENT]),)
    threading.Thread(target=_die_with_parent, args=arguments, daemon=True).start()
    os.environ["PIPELINE_OPTIONS"] = json.dumps(
        {"beam:option:default_sdk_harness_log_level:v1": "ERROR"}
    )
    sdk_worker_main.main(sys.argv)
