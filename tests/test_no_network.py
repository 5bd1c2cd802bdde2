"""Nothing is fetched or reported at run time."""

import json
import socket
import urllib.request

import no_network
import pytest
from PIL import Image
from small_run import small_config

from rsclip_jax import evaluate, export
from rsclip_jax.prepare import Options, prepare
from rsclip_jax.training import loop


def test_attempts_are_refused_and_kept():
    with pytest.raises(OSError):
        urllib.request.urlopen("http://example.org", timeout=1)
    with socket.socket() as one, pytest.raises(PermissionError):
        one.connect(("192.0.2.1", 80))
    assert len(no_network.tried) == 2
    no_network.tried.clear()
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
    assert not no_network.tried


def test_images_become_embeddings_without_network(scenes, tmp_path):
    rows = []
    for number in range(32):
        Image.new("RGB", (32, 32), (8 * number, 0, 0)).save(tmp_path / f"{number}.png")
        split = "val" if number % 4 == 0 else "train"
        row = {"image": f"{number}.png", "captions": [f"red {number}"], "split": split}
        rows.append(json.dumps(row))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    data, workdir = str(tmp_path / "data"), str(tmp_path / "run")
    given = Options("jsonl", str(tmp_path / "rows.jsonl"), data, "reds", workers=1)
    prepare(given)
    config = small_config(scenes, total_steps=2, input__data_dir=data, input__data={"reds": 1.0})
    loop.train(config, workdir)
    of = [f"--model={workdir}", "--batch_size=16"]
    fields = {"type": "retrieval", "data": "reds", "split": "val"}
    evaluate.main(of + [f"--config.evals.val.{name}={value}" for name, value in fields.items()])
    export.main([*of, "--dataset=reds", f"--output={tmp_path / 'embeddings'}"])
    assert (tmp_path / "embeddings" / "card.json").exists()
    assert not no_network.tried
