"""The process of a stage: `python -m benchmarks.gpu.child SETTINGS`, which `__main__.py` starts."""

import importlib
import json
import sys
from pathlib import Path

from benchmarks.gpu.rows import Stage


def main(settings: dict) -> None:
    """Import the stage's module and let it measure; the status is 1 if a measurement failed."""
    stage = Stage(
        settings["name"],
        Path(settings["out"]),
        Path(settings["scratch"]),
        settings["toy"],
        settings["seconds"],
        settings["torch_python"],
    )
    importlib.import_module(settings["module"]).run(stage)
    if stage.failed:
        sys.exit(f"{stage.failed} measurements failed; their rows say why")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
