"""LRS2M (arXiv 2503.19311): two million images with a short and a long caption each.

    python -m rsclip_jax.build.lrs2m --config=configs/build/lrs2m.py --workdir=runs/lrs2m \\
        --config.sources.millionaid.path=FOLDER ... \\
        --config.endpoint.base_url=http://localhost:8000/v1 --config.endpoint.model=NAME

Sources without a path are left out. The eleven are those of the paper, whose models were
LLaVA-OneVision and Qwen2-VL; its prompts, filters and splits are published nowhere: these are ours.
Boxes in a column `boxes`, [[label, left, top, right, bottom], ...] in fractions of the image,
become captions as in RemoteCLIP (its Det-10 and Seg-4).

After the colon:
    public      one public source instead, "rsicd" (a JSONL file).
"""

from ml_collections import ConfigDict

from configs.build import common

LABELLED = ("millionaid", "fmow", "bigearthnet", "ucm", "cvusa", "cvact", "openlandmap")
ANNOTATED = ("crowdai", "loveda", "det10", "seg4")


def get_config(arg=None):
    """Return the config; see above for `arg`."""
    if arg not in (None, "", "public"):
        raise ValueError(f"config argument {arg!r}: expected none or public")
    config = ConfigDict()
    config.name = "lrs2m"  # of the data set
    config.output = ""  # directory of the data sets; "": WORKDIR/data
    config.resize = 0  # shorter side of the images stored, in pixels; 0: as they are
    config.sources = ConfigDict()
    for name in LABELLED:
        config.sources[name] = common.source("folder")
    config.sources.millionaid.class_folder = "last"  # its classes lie three folders deep
    for name in ANNOTATED:
        config.sources[name] = common.source("jsonl")
    config.max_pixels = 200_000_000  # larger images are invalid
    # Perceptual hashes that differ in at most `radius` of 64 bits are one image. It stays in a
    # source of `first`, else in others, else in one of `last`.
    config.duplicates = ConfigDict({"radius": 4})
    config.priority = ConfigDict({"first": (), "last": ()})
    config.endpoint = common.endpoint()
    config.classes = ()  # names of all labels: a caption may name no other than the image's
    config.checks = ConfigDict()
    # Names of all that the detector of `boxes` knows: a caption may name none that it did not find.
    config.checks.objects = ()
    config.checks.clip = ""  # a model: a cosine of image and caption in stages/*_caption_scores
    config.checks.min_clip_score = 0.0  # captions with a lower one go; 0: all stay
    config.validation = 0.01  # share of each source
    if arg == "public":
        config.name = "lrs2m_public"
        config.sources = ConfigDict({"rsicd": common.source("jsonl")})
    return config
