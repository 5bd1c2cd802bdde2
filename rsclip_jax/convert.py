"""Convert a model between this package and other codebases.

    python -m rsclip_jax.convert --input=ViT-B-32.pt --output=runs/base
    python -m rsclip_jax.convert --input=runs/lrsclip --output=exported --to=huggingface

Reads what `rsclip_jax.load` reads: a workdir, or weights of OpenAI CLIP, open_clip, Hugging Face or
Long-CLIP and their descendants (LRSCLIP, GeoRSCLIP, RemoteCLIP, FusionRS-CLIP).
"""

import argparse
import sys
from collections.abc import Sequence

from rsclip_jax import errors, host, weights
from rsclip_jax.training.checkpoint import load_for_inference, save_for_inference
from rsclip_jax.training.state import refit
from rsclip_jax.weights import directories, layouts

OURS = "rsclip_jax"


def main(argv: Sequence[str]) -> None:
    """Run the command with its arguments (without the program's name)."""
    parser = argparse.ArgumentParser(
        "python -m rsclip_jax.convert", description=__doc__.splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--input", required=True, help="workdir, weights file or directory")
    parser.add_argument("--step", type=int, help="checkpoint of a workdir (default: the newest)")
    parser.add_argument("--output", required=True, help="new directory")
    parser.add_argument("--to", default=OURS, choices=[OURS, *layouts.LAYOUTS], help="its format")
    parser.add_argument(
        "--activation",
        choices=["quick_gelu", "gelu", *weights.PRESETS],
        help="the weights' activation, or whose they are (default: what their files say, else the "
        "architecture's own)",
    )
    parser.add_argument("--context_length", type=int, help="text positions; more are made by KPS")
    parser.add_argument("--image_size", type=int, help="pixels; positions are resampled")
    args = parser.parse_args(argv)
    host.printable_output()
    args.input = host.local_path(args.input, "--input")
    args.output = host.output_directory(args.output, "--output")

    changed = {"context_length": None, "image_size": None, "activation": None, "to": OURS}
    of_clip = [f"--{k}={v}" for k, v in vars(args).items() if v != changed.get(k, v)]
    config, params, _ = load_for_inference(
        args.input, args.step, activation=args.activation, clip_for=" ".join(of_clip)
    )
    if args.context_length is not None or args.image_size is not None:
        config, params = refit(config, params, args.context_length, args.image_size)
    config, params = weights.settle_peft(config, params)
    if args.to == OURS:
        save_for_inference(args.output, config, params)
    else:
        directories.write(args.output, config, params, args.to)
    print(f"{args.output}: {weights.describe(config)}, for {args.to}")


if __name__ == "__main__":
    with errors.one_line("convert", "begins again"):
        main(sys.argv[1:])
