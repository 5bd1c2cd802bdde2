import numpy as np
import pytest
from golden_models import GOLDEN

from rsclip_jax.weights.openclip import from_state_dict


def golden_state():
    arrays = np.load(GOLDEN / "openclip_tiny_gelu.npz")
    return {k[6:]: arrays[k] for k in arrays.files if k.startswith("param/")}


def test_every_missing_and_unexpected_tensor_is_named():
    state = golden_state()
    del state["visual.ln_pre.weight"], state["transformer.resblocks.0.mlp.c_fc.bias"]
    state["surprise"] = np.zeros(3)
    with pytest.raises(ValueError) as error:
        from_state_dict(state)
    for name in ("visual.ln_pre.weight", "transformer.resblocks.0.mlp.c_fc.bias", "surprise"):
        assert name in str(error.value)


def test_masks_and_archive_constants_are_no_parameters():
    state = golden_state()
    plain = from_state_dict(state)
    with_constants = from_state_dict(
        {**state, "attn_mask": np.zeros((77, 77)), "input_resolution": 224}
    )
    np.testing.assert_array_equal(plain["txt"]["proj"], with_constants["txt"]["proj"])
