"""webdataset's and torchvision's side of `input_pipeline.py`; needs nothing of rsclip_jax.

Reads the tar files as open_clip's training does, with worker processes of PyTorch's DataLoader:
decoded by Pillow, cropped at random, resized bicubic, flipped; then "float", as open_clip has it
(ToTensor, Normalize), or "uint8", left to be normalised on the device. Captions stay strings.
"""

import json
import resource
import sys
import time
from pathlib import Path

import torch
import torchvision
import webdataset
from torchvision import transforms


def main(directory: str, image_size: int, batch_size: int, workers: int, least: float) -> None:
    """Answer each line of standard input, "float" or "uint8", with the seconds of all images."""
    augment = [
        transforms.RandomResizedCrop(
            image_size, scale=(least, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
        ),
        transforms.RandomHorizontalFlip(),
        transforms.RandomVerticalFlip(),
    ]
    normalize = transforms.Normalize(
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )
    kinds = {
        "float": transforms.Compose([*augment, transforms.ToTensor(), normalize]),
        "uint8": transforms.Compose([*augment, transforms.PILToTensor()]),
    }
    tars = sorted(map(str, Path(directory).glob("*.tar")))
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
                "webdataset": webdataset.__version__,
            }
        ),
        flush=True,
    )
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), cpu_seconds()
        dataset = (
            webdataset.WebDataset(tars, shardshuffle=len(tars))
            .shuffle(1000)
            .decode("pilrgb")
            .to_tuple("jpg", "txt")
            .map_tuple(kinds[line.strip()], str)
        )
        images = sum(
            len(image)
            for image, _ in torch.utils.data.DataLoader(
                dataset, batch_size=batch_size, num_workers=workers
            )
        )
        answer = {"wall": time.perf_counter() - wall, "CPU": cpu_seconds() - cpu, "images": images}
        print(json.dumps(answer), flush=True)


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its workers that have ended."""
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5]))
