"""The encoder: batching, padding, cutting and sharding must not show in the embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from rsclip_jax import sharding
from rsclip_jax.encoder import Encoder
from rsclip_jax.models import clip


class Sums:
    """Embeds an image or text as (sum of its numbers, 1); notes the shapes it is compiled for."""

    image_size, embed_dim = 4, 2

    def __init__(self, shapes):
        self.shapes = shapes

    def apply(self, variables, image=None, ir=None, text=None, normalize=True):
        x = next(v for v in (image, ir, text) if v is not None)
        self.shapes.append(x.shape)
        first = x.reshape(len(x), -1).sum(1).astype(jnp.float32) * (-1 if ir is not None else 1)
        z = jnp.stack([first, jnp.ones_like(first)], 1)
        if normalize:
            z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        return {"zimg": z, "zir": z, "ztxt": z}


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)


def sums(x):
    return np.stack([x.reshape(len(x), -1).sum(1), np.ones(len(x))], 1)


@pytest.mark.parametrize("count", [1, 7, 8, 21])
def test_every_image_is_embedded_in_order_whatever_the_batches(count):
    encoder = Encoder(Sums([]), batch_size=8)
    z = encoder.image({}, images(count), normalize=False)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, sums(images(count)))
    unit = sums(images(count)) / np.linalg.norm(sums(images(count)), axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.image({}, images(count)), unit, rtol=1e-6)
    np.testing.assert_allclose(encoder.ir({}, images(count), normalize=False)[:, 0], -z[:, 0])


def test_a_shape_is_compiled_once():
    shapes = []
    encoder = Encoder(Sums(shapes), batch_size=8)
    encoder.image({}, images(21))
    encoder.image({}, images(16))
    assert shapes == [(8, 4, 4, 3)]
    encoder.image({}, images(3))  # few rows are not padded to a whole batch
    assert shapes[1:] == [(4, 4, 4, 3)]


def test_a_stream_gives_one_result_for_each_batch():
    encoder = Encoder(Sums([]), batch_size=8)
    batches = [images(8), images(5), images(8)[::-1]]
    for z, batch in zip(encoder.image_stream({}, iter(batches)), batches, strict=True):
        z_raw = encoder.image({}, batch)
        np.testing.assert_array_equal(z, z_raw)


def test_a_stream_draws_the_next_batch_before_it_waits():
    drawn = []

    def batches():
        for k in range(3):
            drawn.append(k)
            yield images(8)

    next(Encoder(Sums([]), batch_size=8).image_stream({}, batches()))
    assert drawn == [0, 1]


def test_a_process_embeds_the_rows_that_lie_on_its_devices():
    assert Encoder(Sums([]), batch_size=8).own_rows(5).all()
    mesh = sharding.make_mesh(4, 2)
    own = Encoder(Sums([]), mesh, batch_size=16).own_rows(11)
    assert own.shape == (11,) and own.all()  # all devices are this process's


def test_a_stream_of_few_images_is_padded_to_few_and_to_one_shape():
    shapes = []
    encoder = Encoder(Sums(shapes), batch_size=64)
    z = list(encoder.image_stream({}, [images(7), images(2)]))
    assert [len(part) for part in z] == [7, 2] and shapes == [(8, 4, 4, 3)]


def test_a_mesh_changes_nothing():
    mesh = sharding.make_mesh(4, 2)
    encoder = Encoder(Sums([]), mesh, batch_size=12)
    assert encoder.batch_size == 16  # a multiple of the 8 devices
    params = jax.device_put({"unused": np.zeros(3)}, sharding.replicated(mesh))
    for count in (3, 21):
        z = encoder.image(params, images(count), normalize=False)
        np.testing.assert_allclose(z, sums(images(count)))


def rows(lengths, total=77, pad=0, end=9):
    ids = np.full((len(lengths), total), pad, np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [*range(1, length), end]
    return ids


@pytest.mark.parametrize("pad", [0, 9])  # 9: padded with the end mark itself
def test_texts_are_cut_to_the_bucket_of_the_longest_of_their_batch(pad):
    shapes = []
    encoder = Encoder(Sums(shapes), batch_size=2)
    ids = rows([77, 5, 6, 40, 15, 17], pad=pad)
    z = encoder.text({}, ids, normalize=False)
    assert shapes == [(2, 16), (2, 32), (2, 77)]  # sorted: 5+6, 15+17, 40+77
    if pad == 0:
        np.testing.assert_allclose(z, sums(ids))


def test_a_text_of_one_repeated_id_and_a_one_column_text_are_kept():
    z = Encoder(Sums([])).text({}, np.zeros((2, 5), np.int32), normalize=False)
    assert z[:, 0].tolist() == [0, 0]
    z = Encoder(Sums([])).text({}, np.array([[3], [4]], np.int32), normalize=False)
    assert z[:, 0].tolist() == [3, 4]


def test_cutting_texts_of_the_real_model_is_exact():
    config = ConfigDict(
        {
            "variant": "tiny",
            "image_size": 0,
            "context_length": 120,
            "activation": "quick_gelu",
            "vocab_size": 100,
            "eot_id": 99,
            "mean": clip.CLIP_MEAN,
            "std": clip.CLIP_STD,
            "init_scale": 10.0,
            "logit_bias": False,
            "dtype": "float32",
            "attention": "xla",
            "remat": "none",
            "scan": True,
        }
    )
    model = clip.build(config)
    params = jax.jit(lambda: clip.init_params(model, jax.random.key(0)))()
    ids = rows([4, 60, 17, 120], total=120, end=99)
    embed = jax.jit(lambda ids: model.apply({"params": params}, text=ids)["ztxt"])
    encoder = Encoder(model, batch_size=2)
    np.testing.assert_allclose(encoder.text(params, ids), embed(ids), rtol=1e-4, atol=2e-6)


def test_nothing_to_encode_and_wrong_shapes_are_refused():
    encoder = Encoder(Sums([]), batch_size=4)
    with pytest.raises(ValueError, match="nothing to encode: image has shape"):
        encoder.image({}, images(0))
    with pytest.raises(ValueError, match=r"\[N, L\], got \(3,\)"):
        encoder.text({}, np.zeros(3, np.int32))
    with pytest.raises(ValueError, match="batch of 5 is larger than the encoder's 4"):
        list(encoder.image_stream({}, [images(5)]))
    with pytest.raises(ValueError, match="batch_size=0"):
        Encoder(Sums([]), batch_size=0)
