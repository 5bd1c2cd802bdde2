"""FusionRS (arXiv 2606.17020): CLIP with one image tower for RGB and infrared images.

    python -m rsclip_jax.main --config=configs/fusionrs.py --workdir=runs/fusionrs \\
        --config.init_from=ViT-B-32.pt --config.input.data_dir=DIR

Words after the colon, separated by commas, in any order:
    trimodal, dual_text, rgb_text, ir_text
                the loss: RGB, infrared and text with each other (the default); both images with the
                text; one of them. The pairs' losses are averaged by their weights, all 1: for
                another weight w of RGB with infrared, divided by 2 + w, set config.loss_pairs.
    translated, grayscale, rgb_duplicate
                what the tower sees as infrared: the record's image, or one of the two controls.
    580k, 300k, 100k, 50k
                how many of the training records: each number a part of the greater ones.
    original, ir_aware, mixed
                the second stage: infrared images with the captions of the first, with
                infrared-aware ones, or half of each. From the first stage's workdir, on the data
                set "fusionrs_ir_aware", whose records all have an infrared-aware caption.
    B/32, L/14  the model, OpenAI's.
    demo        a tiny model from scratch on synthetic scenes, four minutes on two CPU cores.

Data are prepared from the authors' manifest, a JSONL file of rgb_path, ir_path, caption (and
ir_caption), with
    python -m rsclip_jax.prepare --format=jsonl --input=triplets.jsonl --images=DIR --output=data \\
        --name=fusionrs --image_column=rgb_path --ir_column=ir_path
Values are those of the released checkpoint (frozy129/FusionRS-CLIP), which is the last one of its
run; those of the second stage are unpublished and ours. Expected of the whole: Mean R 67.66 on its
9,553 test images (`evaluate --suite=fusionrs`), 69.08 from GeoRSCLIP's weights.
"""

from configs import defaults, demo, words

TEXT_PAIRS = {
    "rgb_text": (("img", "txt", 1.0),),
    "ir_text": (("ir", "txt_ir", 1.0),),
    "dual_text": (("img", "txt", 1.0), ("ir", "txt_ir", 1.0)),
}
LOSS_PAIRS = {
    "trimodal": (*TEXT_PAIRS["dual_text"], ("img", "ir", 1.0)),
    **TEXT_PAIRS,
}
IR_TEXT_SOURCE = {"original": "caption", "ir_aware": "ir_caption", "mixed": "mixed"}


def get_config(arg=None):
    """Return the config that `arg` names; see the docstring of this file."""
    word = words.choose(
        "fusionrs",
        arg,
        apart={"rgb_text": ("view", "second"), "demo": ("size", "scale", "second")},
        loss=tuple(LOSS_PAIRS),
        view=("translated", "grayscale", "rgb_duplicate"),
        size=("B/32", "L/14"),
        scale=("580k", "300k", "100k", "50k"),
        second=("", *IR_TEXT_SOURCE),
        demo=("", "demo"),
    )
    c = defaults.get_config()
    c.loss_pairs = LOSS_PAIRS[word["loss"]]
    c.loss.normalize = True
    c.input.ir = word["loss"] != "rgb_text"
    c.input.ir_view = word["view"]
    c.input.ir_text_source = IR_TEXT_SOURCE[word["second"] or "original"]
    c.input.lengths.text_ir = 77  # for evaluation too
    if word["demo"]:
        return _demo(c)

    c.model.variant = word["size"]
    c.model.dtype = "bfloat16"  # theirs is float16 with a loss scaler
    c.input.data = {"fusionrs_ir_aware" if word["second"] else "fusionrs": 1.0}
    if word["scale"] != "580k":
        c.input.subset = 1000.0 * int(word["scale"].removesuffix("k"))
    c.input.caption = "first"  # it has one of each kind
    c.input.batch_size = 128
    c.total_epochs = 3.0  # 13,593 steps on the 579,992 records that have a caption
    c.lr = 5e-6
    c.warmup_steps = 500
    c.wd = 0.1
    c.wd_mask = (".*",)  # biases, LayerNorms and temperature too
    c.evals.val = {"type": "ir_retrieval", "data": "fusionrs", "split": "val"}
    c.checkpoint.minutes = 15.0
    return c


def _demo(c):
    demo.shrink(c)
    c.input.lengths = {"text": 32, "text_ir": 40}
    c.evals.val = {"type": "ir_retrieval", "data": "scenes", "split": "val"}
    return c
