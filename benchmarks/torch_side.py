"""open_clip's side of `train_step.py`; runs in an environment that need not have rsclip_jax."""

import json
import sys
import time

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss


def main(settings: dict) -> None:
    """Warm up, then answer each line of standard input with the seconds of a step."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch_size, context = settings["batch_size"], settings["context_length"]
    bf16 = settings["dtype"] == "bfloat16"
    name = f"ViT-{settings['variant'].replace('/', '-')}"
    config = settings.get("open_clip") or open_clip.get_model_config(name)
    config["text_cfg"]["context_length"] = context
    side = config["vision_cfg"]["image_size"]
    model = open_clip.CLIP(**config).to(device).train()
    forward = torch.compile(model) if bf16 and device == "cuda" else model
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-3,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.2,
        fused=device == "cuda",
    )
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(batch_size, 3, side, side))
    image = torch.tensor(pixels, dtype=torch.float32).to(device)
    texts = 1 + settings["long"]
    text = rng.integers(1, 49406, (texts, batch_size, context))
    text[:, :, -1] = 49407
    text = torch.tensor(text).to(device)
    loss_fn = ClipLoss()

    def loss() -> torch.Tensor:
        zimg, ztxt, scale = forward(image, text.reshape(-1, context))
        return sum(loss_fn(zimg, z, scale) for z in ztxt.chunk(texts))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            total = loss()
        total.backward()
        optimizer.step()
        synchronize()

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    a, b = torch.ones(50 * batch_size, 768, device=device), torch.ones(768, 3072, device=device)
    torch.matmul(a, b)
    for _ in range(2):
        step()
    described = {"torch": torch.__version__, "open_clip": open_clip.__version__, "device": device}
    print(json.dumps({**described, "threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        step()
        times = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        start = time.perf_counter()
        for _ in range(10):
            torch.matmul(a, b)
            synchronize()
        times["matmul"] = 10 * 2 * a.numel() * b.shape[1] / (time.perf_counter() - start)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
