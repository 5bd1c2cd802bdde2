"""RS5M (arXiv 2306.11300, section III): sources, filters, and how much is held out.

    python -m rsclip_jax.build.rs5m --config=configs/build/rs5m.py --workdir=runs/rs5m \\
        --config.sources.laion2b.path=FOLDER --config.sources.fmow.path=FOLDER ...

Sources without a path are left out. Those of the web (PUB11) are img2dataset's output folders, or
tables of URLs (form "urls"), from which a list for img2dataset is made first; of the labelled sets
(RS3) folders of class folders, or tables with captions or `candidates` (see `captions` below), of
which folders have none. For all of them the paper has 3,007,809 and 2,062,377 rows.

After the colon:
    public      one public source instead, "rsicd" (a JSONL file): no keywords, for its captions are
                of its images alone, but all other filters.
"""

from ml_collections import ConfigDict

from configs.build import common

WEB = (
    *("laion2b", "coyo700m", "laioncoco", "laion400m", "wit", "yfcc15m", "cc12m", "redcaps"),
    *("cc3m", "sbu", "vg"),
)
LABELLED = ("fmow", "ben", "millionaid")


def source(form, keywords, filters):
    """Return the fields of a source.

    keywords, filters: whether the keyword filter, and those of duplicates and scores, apply to its
    rows.
    """
    return common.source(form, keywords=keywords, filters=filters)


def get_config(arg=None):
    """Return the config; see above for `arg`."""
    if arg not in (None, "", "public"):
        raise ValueError(f"config argument {arg!r}: expected none or public")
    config = ConfigDict()
    config.name = "rs5m"  # of the data set
    config.output = ""  # directory of the data sets; "": WORKDIR/data
    config.resize = 0  # shorter side of the images stored, in pixels; 0: as they are
    config.sources = ConfigDict()
    for name in WEB:
        config.sources[name] = source("img2dataset", True, True)
    for name in LABELLED:
        config.sources[name] = source("folder", False, False)
    config.sources.millionaid.class_folder = "last"  # its classes lie three folders deep
    config.fetched = ""  # img2dataset's output folder, for rows that have only a URL
    config.max_pixels = 200_000_000  # larger images are invalid
    # Who survives of duplicates: a row of `first`, of others, of `last`.
    config.priority = ConfigDict()
    config.priority.first = ("laion2b", "laion400m", "coyo700m")
    config.priority.last = ("laioncoco",)
    # Near-duplicates: perceptual hashes that differ in at most `radius` of 64 bits, as in FusionRS;
    # then, as in the paper, links to the nearest `neighbours` by embeddings. The paper's are
    # fastdup's, without a threshold; here they are those of `model` ("": left out), with one of
    # our own.
    config.duplicates = ConfigDict()
    config.duplicates.radius = 4
    config.duplicates.model = ""  # a workdir or weights, as rsclip_jax.load takes them
    config.duplicates.threshold = 0.96
    config.duplicates.neighbours = 5
    config.duplicates.cells = 1  # 1 is exact; take one for every few thousand images
    config.duplicates.probes = 4  # cells that are searched for an image
    # A row stays if its CLIP score (33 prompts) and that of the detector, a file of
    # rsclip_jax.build.train_detector, are among the best shares. Without `model` all stay; the
    # paper's is ConvNeXt-XXLarge.
    config.scores = ConfigDict()
    config.scores.model = ""
    config.scores.detector = ""
    config.scores.detector_model = ""  # whose embeddings it reads; "": those of `model`
    config.scores.clip_share = 0.9
    config.scores.detector_share = 0.8
    # Two models, ViT-H/14 and RN50x64 in the paper, that choose among the captions in the column
    # `candidates` of a source.
    config.captions = ConfigDict({"first": "", "second": ""})
    # Source -> form of its metadata, of which a sentence is put before the captions:
    # {"fmow": "fmow", "ben": "ben", "yfcc15m": "yfcc"} where they are at hand.
    config.geometa = ConfigDict()
    # Of fMoW also clouds, scan direction, azimuth and off-nadir angle: some 90 tokens of CLIP.
    config.geometa_full = False
    config.places = False  # look for place names in captions; the stage's table has them
    config.validation = 0.05  # share of each source's rows that came without a held-out split
    if arg == "public":
        config.name = "rs5m_public"
        config.sources = ConfigDict({"rsicd": source("jsonl", False, True)})
    return config
