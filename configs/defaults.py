"""Every field of a configuration, with its default and meaning. The papers' files start here.

Override any of them on the command line: `--config.lr=1e-4`, `--config.input.batch_size=64`.
Tuples are given as `--config.input.crop="(0.8, 1.0)"`.
"""

from ml_collections import ConfigDict

from rsclip_jax.models.clip import CLIP_MEAN, CLIP_STD


def get_config():
    """Return the defaults: CLIP B/32 on captions of up to 77 tokens."""
    c = ConfigDict()
    c.task = "clip"  # or "translation", of RGB to infrared images (configs/translator.py)
    c.seed = 0
    c.total_steps = 0  # give this one or the next
    c.total_epochs = 0.0  # passes over the training data (weighted mixtures: over their sum)
    # Workdir of an earlier run, or weights, to start from. Their sizes take the place of those in
    # model, unless the command line gives these (training/initial.py).
    c.init_from = ""
    c.tokenizer = "clip"  # or "sentencepiece:PATH.model"

    c.model = ConfigDict()
    c.model.variant = "B/32"  # tiny, small, B/32, B/16, L/14, L/14-336, H/14, custom
    c.model.sizes = ()  # of "custom": patch_size, image_width, ... (Sizes in models/clip.py)
    c.model.image_size = 0  # pixels; 0: the variant's own
    c.model.context_length = 77  # text positions
    c.model.activation = ""  # "quick_gelu" (OpenAI), "gelu" (laion); "": laion's for H/14 only
    c.model.layer_norm_eps = 1e-5  # of every CLIP but few
    c.model.vocab_size = 0  # 0: the tokenizer's
    c.model.eot_id = -1  # -1: the tokenizer's
    c.model.mean = CLIP_MEAN
    c.model.std = CLIP_STD
    c.model.init_scale = 1 / 0.07  # logit scale exp(t) at the start of training from scratch
    c.model.logit_bias = False  # SigLIP's bias; needed by loss.kind = "sigmoid"
    c.model.own_scale = ()  # loss pairs with a logit scale of their own, as "img_ir"
    # Infrared images go through the tower of RGB ("shared"), one that starts as its copy
    # ("separate"), or this one with a low-rank update ("lora": targets, rank, alpha of peft).
    c.model.ir_tower = "shared"
    # Micrometres: 0.85 near infrared, 10 thermal. Patches are then embedded by kernels that are
    # made for the wavelengths of red, green, blue and this one; 0: off.
    c.model.ir_wavelength = 0.0
    c.model.dtype = "float32"  # of the computation; "bfloat16" on GPU and TPU
    c.model.attention = "auto"  # "xla", "cudnn", or the faster one that applies
    c.model.scan = True  # compile one layer and loop; False: faster steps, slower compilation
    # Activations that the backward pass computes anew, to keep fewer: "none", "full" for all, or a
    # policy between them (REMAT_POLICIES in models/blocks.py); "auto": the fastest that fits.
    c.model.remat = "auto"
    # How an initial checkpoint's shorter text positions are stretched to context_length.
    c.model.stretch = "kps"  # or "interpolate"; "none": it has enough
    c.model.keep = 20
    c.model.ratio = 4.0
    # Parameter-efficient fine-tuning (models/peft.py): unless config.schedule says otherwise, the
    # base is frozen and only what is added is trained.
    c.model.peft = ConfigDict()
    c.model.peft.method = ""  # "lora", "pfeiffer", "prefix", "unipelt"
    c.model.peft.targets = "attn/(query|value)"  # dense layers with LoRA, a regular expression
    c.model.peft.rank = 8
    c.model.peft.alpha = 8.0
    c.model.peft.reduction = 16  # width of the tower / width of its adapters
    c.model.peft.prefix = 0  # tokens; 0: 30, 10 in UniPELT
    c.model.peft.hidden = 512  # of the network that makes the prefixes
    c.model.peft.folded = False  # the prefixes are parameters, their network is gone

    c.input = ConfigDict()
    c.input.data_dir = "data"  # where prepared data sets lie; "": WORKDIR/data
    c.input.data = ConfigDict()  # name -> mixing weight
    c.input.split = "train"
    c.input.subset = 1.0  # share of the records, or their number; smaller ones are part of greater
    c.input.batch_size = 256  # over all devices
    c.input.lengths = ConfigDict({"text": 77})  # text fields of a batch and their token lengths
    c.input.pack_text = False  # short texts share rows of tokens: the same result for less work
    c.input.ir = False  # infrared images as well; records without one train the rest of the loss
    c.input.ir_view = "translated"  # the record's; or made of RGB: "grayscale", "rgb_duplicate"
    # Text of the infrared image (text_ir): "ir_caption", "caption" (text itself), or "mixed".
    c.input.ir_text_source = "ir_caption"
    c.input.caption = "random"  # or "first"
    c.input.label_words = True  # labels in captions as words; False: as they are written
    c.input.long_caption = "auto"  # "record", "compose", or composed where the record has none
    c.input.crop = ()  # area range of the random resized crop; (): CLIP's resize and centre crop
    c.input.flip = False  # horizontal and vertical, each half of the time
    c.input.right_angles = False  # rotation by a multiple of 90 degrees
    c.input.rotate = 0.0  # rotation by up to +- this many degrees
    # Of samples whose texts name a direction (left, upper, north): "leave" neither flips nor turns
    # them, "turn" turns the words as well, by right angles.
    c.input.augment_text = "off"
    # Damaged records, in each process that reads, that the next one of the data set stands for.
    c.input.max_bad_records = 0
    c.input.threads = 0  # 0: one for each core
    c.input.workers = 0  # processes with threads of their own, one for every dozen cores
    # Synthetic scenes to draw where data is absent, infrared "near" or "thermal".
    c.scenes = ConfigDict({"train": 0, "val": 0, "infrared": "near"})

    # Which embeddings the loss compares, and how much each pair weighs: img, ir, txt, txt_long,
    # txt_ir.
    c.loss_pairs = (("img", "txt", 1.0),)
    c.loss = ConfigDict()
    c.loss.kind = "softmax"  # or "sigmoid" (SigLIP)
    c.loss.normalize = False  # divide by the sum of the weights (FusionRS)
    # Of a pair with infrared images: over the rows that have one, or over all rows of the "batch",
    # so that a row weighs the same however many have one.
    c.loss.mean = "present"
    c.loss.label_smoothing = 0.0
    c.loss.mask_same_text = False  # rows with the same caption are no negatives of each other
    c.loss.pcm_dim = 0  # principal components of Long-CLIP's short branch; 0: off
    c.loss.stop_gradient_gather = False  # LRSCLIP's released code: no gradient of gathered rows
    # What a device holds of the logits of a global batch B: "gather" its rows, [B / devices, B];
    # "ring" a block of them, [chunk, B / devices]; "auto" is "ring" where its rows exceed 64 MiB;
    # "dense" leaves it to the compiler. Values and gradients are the same.
    c.loss.impl = "auto"
    c.loss.chunk = 0  # rows of a block of the ring; 0: half the width of the embeddings
    # (weights at first, weights at last, start, end), a cosine between two fractions of training.
    c.loss.curriculum = ()
    c.loss.max_scale = 0.0  # clamp of exp(t), 100 in CLIP; 0: none

    c.lr = 1e-3
    c.warmup_steps = 0  # the rate is lr (step + 1) / warmup_steps, steps counted from 0
    c.wd = 0.0
    # Parameters that decay.
    c.wd_mask = (".*/kernels?", ".*proj", ".*embedding", r".*/lora_\w+/[ab]")
    c.b1 = 0.9
    c.b2 = 0.999
    c.eps = 1e-8
    c.grad_clip_norm = 0.0  # 0: off
    # First matching regular expression decides: learning-rate factor, or None for frozen.
    c.schedule = ((".*", 1.0),)
    c.frozen_positions = 0  # leading text positions that never change (KPS)
    c.ema_decay = 0.0  # 0: off; evaluation and export use the average where it is kept
    c.max_bad_steps = 10  # non-finite steps in a row that stop training

    # Parts that the towers take a batch in, one after the other: the same gradients in less memory.
    # 0: as few as fit, and more than one only where recomputing everything is not enough.
    c.grad_cache_steps = 0
    # Devices per axis, -1: the rest. fsdp: each holds a part of every parameter; tensor: each
    # computes some of the heads and hidden units of the same rows.
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    # Mesh axis of each dimension of a parameter, the layers' aside. What no pattern matches is
    # split over fsdp along its longest dimension.
    c.sharding = (
        (".*/(query|key|value|fc1)/kernel", ("fsdp", "tensor")),
        (".*/(query|key|value|fc1)/bias", ("tensor",)),
        (".*/(out|fc2)/kernel", ("tensor", "fsdp")),
    )

    c.log_steps = 50
    c.profile = ()  # (first, last): a trace of these steps, in WORKDIR/profile
    c.eval_steps = 0  # 0: at the end only
    c.evals = ConfigDict()  # name -> evaluator
    c.checkpoint = ConfigDict()
    c.checkpoint.steps = 1000  # 0: by time only
    c.checkpoint.minutes = 0.0  # 0: by steps only
    c.checkpoint.keep = 2
    c.checkpoint.best = ""  # metric whose best checkpoint is kept as well: "val/mean_recall"
    c.export = ConfigDict()  # data set name -> splits whose embeddings are written at the end
    return c
