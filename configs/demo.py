"""What the demos of all configs share."""


def shrink(c):
    """Turn a config into a tiny model trained from scratch on synthetic scenes, in minutes."""
    from_scratch(c)
    c.model.variant = "tiny"
    c.model.scan = False
    c.total_steps = 150
    c.warmup_steps = 20
    c.scenes.update({"train": 2048, "val": 256})
    c.input.data_dir = ""
    c.input.data = {"scenes": 1.0}
    c.input.batch_size = 128
    # No flips and turns: the captions tell left from right.
    c.eval_steps = 75
    c.export.scenes = ("val",)
    c.checkpoint.steps = 50
    c.log_steps = 10


def from_scratch(c):
    """Set the optimiser for a model that starts from random numbers."""
    c.lr = 1e-3
    c.wd = 0.1
    c.b2 = 0.98
    c.eps = 1e-6
    c.loss.max_scale = 100.0
    c.grad_clip_norm = 1.0
