"""Stands in for `rsclip_jax.main` where launchers and sweeps are tested: a run of made-up numbers.

It takes the same arguments, writes metrics.jsonl and finished.json, resumes where it stopped, and
saves on SIGTERM. `--config.lr` is what it scores by; `--config.wd=1` fails at once, `2` the first
time only, and `3` stops before its end the first time, as if preempted.
"""

import fcntl
import json
import signal
import sys
import time
from pathlib import Path

STEPS = 10


def main() -> int:
    flags = dict(a.lstrip("-").split("=", 1) for a in sys.argv[1:])
    workdir = Path(flags["workdir"])
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    with (workdir / "starts").open("a") as file:
        file.write(flags.get("process_id", "0") + "\n")
    first = len((workdir / "starts").read_text().splitlines()) == 1
    print("arguments", " ".join(sys.argv[1:]), flush=True)
    trouble = flags.get("config.wd", "0")
    if trouble == "1" or (trouble == "2" and first):
        print("the loss is not finite", flush=True)
        return 3
    start = flags.get("config.init_from")
    if start and not (Path(start) / "finished.json").exists():
        return 4
    told = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    path = workdir / "metrics.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    for step in range(done + 1, STEPS + 1):
        time.sleep(float(flags.get("config.warmup_steps", "0")) / 100)
        line = {"step": step, "training_loss": 5 / step, "lr": 1 / step}
        if step == STEPS:
            score = 100 * float(flags.get("config.lr", "0")) + int(flags["config.seed"])
            line |= {"val/mean_recall": score, "val/i2t_R@1": score / 2, "other/top1": 1.0}
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if told or (trouble == "3" and first and step == 5):
            print("saved", flush=True)
            return 0
    trained = round(1000 * float(flags.get("config.lr", "0")))
    (workdir / "finished.json").write_text(json.dumps({"trained_parameters": trained}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
