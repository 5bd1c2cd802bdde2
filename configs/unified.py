"""All three papers at once: long captions, infrared and few trained parameters in one CLIP.

    python -m rsclip_jax.main --config=configs/unified.py --workdir=runs/unified \\
        --config.init_from=RS5M_ViT-B-32.pt --config.input.data_dir=DIR \\
        --config.input.data="{'lrs2m': 0.8, 'fusionrs': 0.2}"

Starts from GeoRSCLIP, stretches its text positions to 248 tokens (LRSCLIP), and trains on RGB with
long and with short captions and on infrared images with RGB and with both kinds of captions
(FusionRS). The base is frozen but for the stretched positions; what is trained is added to it.
Records without an infrared image, or without long captions, train the rest of the loss. None of
the papers did this: every value that is not named as theirs is our choice.

Words after the colon, separated by commas, in any order:
    lora, pfeiffer, prefix, unipelt, full
                what is trained: what the method adds (the default is LoRA), or everything.
    B/32, B/16, L/14, H/14
    demo        a tiny model on synthetic scenes, six minutes on two CPU cores: from scratch, or
                from its workdir with one of the methods.
"""

from configs import defaults, demo, words
from rsclip_jax.models import peft


def get_config(arg=None):
    """Return the config that `arg` names; see the docstring of this file."""
    word = words.choose(
        "unified",
        arg,
        apart={"demo": ("size",)},
        method=("", "lora", "pfeiffer", "prefix", "unipelt", "full"),
        size=("B/32", "B/16", "L/14", "H/14"),
        demo=("", "demo"),
    )
    method = word["method"] or ("full" if word["demo"] else "lora")
    c = defaults.get_config()
    c.model.context_length = 248
    c.input.lengths = {"text": 77, "text_long": 248, "text_ir": 77}
    c.input.ir = True
    c.input.ir_text_source = "mixed"
    c.loss_pairs = (
        ("img", "txt_long", 1.0),
        ("img", "txt", 1.0),
        ("ir", "txt_ir", 1.0),
        ("img", "ir", 1.0),
    )
    c.loss.normalize = True
    c.loss.mask_same_text = True  # class names as captions repeat
    if method != "full":
        c.model.peft.method = method
        c.schedule = ((peft.ADDED, 1.0), ("txt/pos_embedding", 0.1), (".*", None))
    if word["demo"]:
        return _demo(c, method)

    c.frozen_positions = 20  # of KPS
    c.model.variant = word["size"]
    c.model.dtype = "bfloat16"
    c.input.batch_size = 1024
    c.input.crop = (0.9, 1.0)
    c.total_epochs = 3.0
    c.lr = 5e-6 if method == "full" else 1e-4
    c.warmup_steps = 500
    c.wd = 0.1
    c.checkpoint.minutes = 15.0
    return c


def _demo(c, method):
    demo.shrink(c)
    if method != "full":
        c.lr = 3e-3
    c.input.lengths = {"text": 32, "text_long": 144, "text_ir": 40}
    c.evals.val = {"type": "retrieval", "data": "scenes", "split": "val"}
    c.evals.val.texts = ("short", "long")
    c.evals.val.protocols = ("any",)
    c.evals.ir = {"type": "ir_retrieval", "data": "scenes", "split": "val"}
    return c
