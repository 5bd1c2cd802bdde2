"""FusionRS (arXiv 2606.17020): 600,000 RGB images with an infrared view and a caption.

    python -m rsclip_jax.build.fusionrs --config=configs/build/fusionrs.py --workdir=runs/frs \\
        --config.sources.rs5m.path="FOLDER/*.tar" ... --config.translated=FOLDER \\
        --config.endpoint.base_url=http://localhost:8000/v1 --config.endpoint.model=NAME

Sources without a path are left out. Without config.translated the first run ends with a list of the
images that have no infrared view yet. The paper's rows: rs5m 488,033, skyscript 65,266, nwpu
31,186, rsicd 10,824, rsitmd 4,691. Its scales of 300K, 100K and 50K are no data sets of their own
but the trainer's config.input.subset (`configs/fusionrs.py:50k`), nested as the paper's.

After the colon:
    pairs       one source instead, "pairs": a JSONL file of real pairs, with the columns image (or
                rgb_path), ir (or ir_path) and captions; a tenth of the held-out sizes.
"""

from ml_collections import ConfigDict

from configs.build import common

SOURCES = {
    "rs5m": "webdataset",
    "skyscript": "csv",
    "nwpu": "json",
    "rsicd": "json",
    "rsitmd": "json",
}


def get_config(arg=None):
    """Return the config; see above for `arg`."""
    if arg not in (None, "", "pairs"):
        raise ValueError(f"config argument {arg!r}: expected none or pairs")
    config = ConfigDict()
    config.name = "fusionrs"  # of the data set
    config.output = ""  # directory of the data sets; "": WORKDIR/data
    config.resize = 0  # shorter side of the images stored, in pixels; 0: as they are
    config.sources = ConfigDict({name: common.source(form) for name, form in SOURCES.items()})
    config.max_pixels = 200_000_000  # larger images are invalid
    config.translated = ""  # directory of a translator's outputs, see rsclip_jax.build.infrared
    # Held out, in rows, exactly; at least `minimum` of each source in each of them. Splits that
    # rows came with, official ones too, are not kept.
    config.sizes = ConfigDict({"val": 10_000, "test": 10_000})
    config.minimum = 500
    # What is alike goes to one split: perceptual hashes that differ in at most `radius` of 64 bits.
    config.duplicates = ConfigDict({"radius": 4})
    # Infrared-aware captions, all in train: of this share of the rows, the paper's 49,068 of
    # 600,000. The model, there Qwen2.5-VL-72B, sees the infrared image ("ir",), or both
    # ("image", "ir"), and the caption.
    config.ir_aware = ConfigDict({"share": 0.0818, "images": ("ir",)})
    config.endpoint = common.endpoint()
    if arg == "pairs":
        config.name = "fusionrs_pairs"
        config.sources = ConfigDict({"pairs": common.source("jsonl")})
        config.sizes = ConfigDict({"val": 1_000, "test": 1_000})
        config.minimum = 0
    return config
