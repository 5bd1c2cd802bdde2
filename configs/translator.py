"""A translator of RGB into infrared images, trained on aligned pairs.

    python -m rsclip_jax.main --config=configs/translator.py --workdir=runs/translator \\
        --config.input.data_dir=DIR --config.input.data.NAME=1.0

Words after the colon, separated by commas, in any order:
    pix2pix, bridge
                a U-Net beside a discriminator of patches (the default), after pix2pix (arXiv
                1611.07004); or a diffusion bridge (I2SB, arXiv 2302.05872) from the luma to the
                infrared image, which in several steps draws one of the possible images.
    demo        a tiny one on synthetic scenes, a few minutes on two CPU cores.

The data are the near-infrared pairs of NAIP unless config.input.data says otherwise (see
benchmarks/naip.py for how they are prepared); records without an infrared image are skipped.
`python -m rsclip_jax.build.translate` then translates whole data sets.
"""

from configs import defaults, demo, words


def get_config(arg=None):
    """Return the config that `arg` names; see the docstring of this file."""
    word = words.choose("translator", arg, variant=("pix2pix", "bridge"), demo=("", "demo"))
    c = defaults.get_config()
    if word["demo"]:
        demo.shrink(c)
    c.task = "translation"
    c.model = {
        "variant": word["variant"],
        "width": 8 if word["demo"] else 64,  # channels of the first level; a multiple of 8
        "depth": 2 if word["demo"] else 4,  # how often the image is halved
        "image_size": 64 if word["demo"] else 256,  # of training and of tiles; 2^depth divides it
        "noise": 0.1,  # of a bridge: twice its standard deviation half-way; levels have range 2
        "steps": 4,  # of a bridge, from the luma to the image
        "dtype": "float32" if word["demo"] else "bfloat16",  # of the computation
    }
    c.grad_cache_steps = 1  # a translator takes its batch as a whole
    c.loss_pairs = ()
    c.loss = {"l1": 100.0, "adversarial": 1.0} if word["variant"] == "pix2pix" else {}
    c.input.ir = True
    c.input.lengths = {}
    c.sharding = ()
    c.export = {}
    c.b1 = 0.5 if word["variant"] == "pix2pix" else 0.9
    c.b2 = 0.999
    c.wd = 0.0
    c.evals.val = {"type": "translation", "data": "naip", "split": "val"}
    if word["demo"]:
        c.input.batch_size = 16
        c.lr = 2e-3
        c.evals.val.data = "scenes"
        return c
    c.input.data = {"naip": 1.0}
    c.input.batch_size = 16
    c.input.crop = (0.25, 1.0)
    c.input.flip = True
    c.input.right_angles = True
    c.lr = 1e-3
    c.total_steps = 10_000
    c.warmup_steps = 500
    c.ema_decay = 0.999
    c.eval_steps = 1000
    return c
