"""The evaluate command: overrides, the table, results.json, pictures."""

import io
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from rsclip_jax import evaluate
from rsclip_jax.data.records import dataset_fingerprint, write_dataset
from rsclip_jax.evaluators import report
from rsclip_jax.models import clip
from rsclip_jax.sharding import replicated

MODEL = {
    "variant": "tiny",
    "image_size": 16,
    "context_length": 24,
    "activation": "gelu",
    "vocab_size": 49408,
    "eot_id": 49407,
    "mean": clip.CLIP_MEAN,
    "std": clip.CLIP_STD,
    "init_scale": 10.0,
    "logit_bias": False,
    "dtype": "float32",
    "attention": "xla",
    "remat": "none",
    "scan": True,
}


def example(k, label):
    noise = np.random.default_rng(k).integers(0, 256, (20, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    captions = [f"{label} number {k}", f"a {label}"]
    return {"id": f"{k}", "image": buffer.getvalue(), "label": label, "captions": captions}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    splits = {"val": ["pond"] * 3 + ["road"] * 3, "test": ["pond", "road"]}
    made = {
        split: [example(k + 10 * (split == "test"), label) for k, label in enumerate(labels)]
        for split, labels in splits.items()
    }
    write_dataset(directory, "places", made)
    return directory


@pytest.fixture(scope="module")
def params():
    model = clip.build(ConfigDict(MODEL))
    return jax.jit(lambda: clip.init_params(model, jax.random.key(0)))()


@pytest.fixture
def config():
    config = ConfigDict(
        {
            "model": MODEL,
            "tokenizer": "clip",
            "input": {"data_dir": "elsewhere", "lengths": {"text": 24}, "long_caption": "auto"},
            "evals": {
                "val": {"type": "retrieval", "data": "places", "split": "val", "limit": 0},
                "scenes": {"type": "zero_shot", "data": "places", "split": "val"},
            },
        }
    )
    config.evals.val.texts = ("short",)
    config.evals.scenes.protocol = "plain"
    return config


@pytest.fixture
def workdir(tmp_path, config, params, monkeypatch):
    """A directory that passes for the one of a run."""

    def load_for_inference(path, step, mesh):
        assert path == str(tmp_path)
        return config, jax.device_put(params, replicated(mesh)), step or 7

    monkeypatch.setattr(evaluate, "load_for_inference", load_for_inference)
    return tmp_path


def run(workdir, *arguments):
    return evaluate.main([f"--model={workdir}", "--batch_size=8", *arguments])


def test_metrics_are_printed_and_written_with_what_made_them(workdir, data, capsys):
    metrics = run(workdir, f"--data={data}")
    assert {"val/i2t_R@1", "val/multi_mean_recall", "scenes/top1"} < set(metrics)
    assert metrics["val/t2i_R@10"] == 100  # six images only
    results = json.loads((workdir / "eval" / "results.json").read_text())
    assert results["metrics"] == metrics
    assert results["step"] == 7
    assert results["model"] == str(workdir)
    assert results["dataset_fingerprints"] == {"places": dataset_fingerprint(data, "places")}
    assert sorted(p.name for p in (workdir / "eval").iterdir()) == [
        *("report.html", "report.md", "results.json", "scenes.png", "val.png")
    ]
    printed = capsys.readouterr().out
    assert str(workdir / "eval" / "val.png") in printed


def test_suite_takes_the_place_of_the_runs_evaluators(workdir, tmp_path_factory, capsys):
    data = tmp_path_factory.mktemp("suite")
    write_dataset(data, "rsicd", {"test": [example(k, "pond") for k in range(3)]})
    more = ("--config.evals.own.type=zero_shot", "--config.evals.own.data=rsicd")
    metrics = run(
        workdir, f"--data={data}", "--suite=georsclip", *more, "--config.evals.own.split=test"
    )
    assert {name.split("/")[0] for name in metrics} == {"rsicd", "own"}
    printed = capsys.readouterr().out
    assert "rsitmd: skipped, no data set 'rsitmd'" in printed
    results = json.loads((workdir / "eval" / "results.json").read_text())
    assert results["suite"] == "georsclip" and results["complete"]
    assert results["skipped"].keys() == {"aid", "resisc45", "eurosat", "rsitmd", "air_slt"}
    assert results["details"]["rsicd"]["size"] == 3
    text = (workdir / "eval" / "report.md").read_text()
    assert "rsicd has 3 here, 1,093 in the published number (CLIP ViT-B/32; GeoRSCLIP" in text
    assert "<img" in (workdir / "eval" / "report.html").read_text()


def test_suites_published_numbers_stand_in_the_report(workdir, tmp_path_factory):
    data = tmp_path_factory.mktemp("suite")
    write_dataset(data, "rsicd", {"test": [example(k, "pond") for k in range(12)]})
    other = "--config.evals.rsicd.protocols=('any', 'multi')"
    run(workdir, f"--data={data}", "--suite=lrsclip", other)
    text = (workdir / "eval" / "report.md").read_text()
    assert "; none cut at 24 tokens" in text  # of a model without a length for long texts
    assert "rsicd was run with protocols=('any', 'multi')" in text


def test_pairs_without_text_stand_beside_fusionrs_numbers(workdir, tmp_path_factory):
    data = tmp_path_factory.mktemp("suite")
    rows = [example(k, "") for k in range(3)]
    rows = [{"id": row["id"], "image": row["image"], "ir": row["image"]} for row in rows]
    write_dataset(data, "cart", {"test": rows})
    metrics = run(workdir, f"--data={data}", "--suite=fusionrs")
    assert metrics["cart/mean_recall"] == 100  # each image is its own infrared one
    text = (workdir / "eval" / "report.md").read_text()
    assert "fusionrs: no data set 'fusionrs'" in text
    row = next(line for line in text.splitlines() if line.startswith("| cart mean_recall"))
    assert [cell.split()[0] for cell in row.split("|")[2:4]] == ["100.00", "22.88"]
    assert "cart has 3 here, 279 in the published number" in text
    assert "cart/test: 3 pairs" in text
    assert (workdir / "eval" / "cart.png").exists()


def test_a_failure_keeps_the_results_of_the_other_evaluators(workdir, data, monkeypatch, capsys):
    def fail(self, params):
        raise OSError("the disk is full")

    monkeypatch.setattr("rsclip_jax.evaluators.zero_shot.ZeroShot.run", fail)
    with pytest.raises(evaluate.EvaluationError, match="scenes failed"):
        run(workdir, f"--data={data}")
    results = json.loads((workdir / "eval" / "results.json").read_text())
    assert not results["complete"]
    assert results["failed"] == {"scenes": "OSError: the disk is full"}
    assert "val/t2i_R@1" in results["metrics"]
    assert "the disk is full" in (workdir / "eval" / "report.md").read_text()
    assert capsys.readouterr().err == "scenes: the disk is full\n"


def test_an_interruption_keeps_the_results_of_the_evaluators_before_it(
    workdir, data, monkeypatch, capsys
):
    def interrupt(self, params):
        yield "top1", 1.0
        raise KeyboardInterrupt

    monkeypatch.setattr("rsclip_jax.evaluators.zero_shot.ZeroShot.run", interrupt)
    fields = ("type=zero_shot", "data=places", "split=val")
    more = [f"--config.evals.a_later.{field}" for field in fields]
    with pytest.raises(KeyboardInterrupt):  # where a command has none: `errors.Leave` ends it
        run(workdir, f"--data={data}", *more)
    results = json.loads((workdir / "eval" / "results.json").read_text())
    assert {name.split("/")[0] for name in results["metrics"]} == {"val"}
    assert not results["failed"] and not results["complete"]
    assert list(results["evals"]) == ["val", "scenes", "a_later"]
    assert "mean_recall" in (workdir / "eval" / "report.md").read_text()
    assert capsys.readouterr().out.index("\nval (") >= 0


def test_only_some_evaluators_run_in_the_order_given(workdir, data, capsys):
    fields = ("type=probe", "data=places", "split=test", "train_split=val")
    mine = [f"--config.evals.mine.{field}" for field in fields]
    metrics = run(workdir, f"--data={data}", "--only=scenes, mine", *mine)
    assert list(dict.fromkeys(name.split("/")[0] for name in metrics)) == ["scenes", "mine"]
    printed = capsys.readouterr().out
    assert "\n  plain  " in printed and "\n  fitted on val  " in printed
    assert "\n  plain: one prompt" in printed
    assert "places/test: 2 images, 2 classes; fitted on val: 6" in printed


def test_results_that_cannot_be_written_are_told_before_the_work(workdir, data):
    (workdir / "eval").write_text("a file where the directory should be")
    with pytest.raises(
        ValueError, match=r"written to .*eval \(File exists\): give another --output"
    ):
        run(workdir, f"--data={data}")


def test_texts_of_a_model_with_another_vocabulary_are_refused(workdir, data, config):
    config.model.vocab_size = 97
    with pytest.raises(ValueError, match=r"the model has 97 tokens .* tokenizer 'clip' has 49,408"):
        run(workdir, f"--data={data}")


def test_suite_without_any_of_its_data_is_told(workdir, tmp_path):
    with pytest.raises(ValueError, match="--suite=fusionrs: none of its data sets is there"):
        run(workdir, f"--data={tmp_path}", "--suite=fusionrs")


def test_screen_and_report_name_their_rows_alike(workdir, data, capsys):
    run(workdir, f"--data={data}", "--config.evals.val.protocols=('any', 'multi')")
    screen, text = capsys.readouterr().out, (workdir / "eval" / "report.md").read_text()
    for row, column in (("any", "i2t_R@1"), ("multi", "mean_recall"), ("plain", "top1")):
        assert f"\n  {row}  " in screen and column in screen
        assert f"| {row} {column} " in text


def test_table_has_a_row_for_each_kind_of_text():
    metrics = {"i2t_R@1": 1.0, "mean_recall": 2.25, "long_multi_i2t_R@1": 33.333, "top1": 4.0}
    assert [line.split() for line in report.table(metrics, "any").splitlines()] == [
        ["i2t_R@1", "mean_recall", "top1"],
        ["any", "1.00", "2.25", "4.00"],
        ["long_multi", "33.33"],
    ]


def test_fields_of_the_config_are_overridden(workdir, data, tmp_path):
    output = tmp_path / "other"
    overrides = ("--config.evals.val.split=test", "--config.evals.scenes.protocol=skyscript")
    metrics = run(workdir, f"--data={data}", f"--output={output}", "--step=3", *overrides)
    assert metrics["val/multi_t2i_R@5"] == 100  # two images only
    results = json.loads((output / "results.json").read_text())
    assert results["step"] == 3
    assert results["evals"]["val"]["split"] == "test"
    assert results["evals"]["scenes"]["protocol"] == "skyscript"
    assert not (workdir / "eval").exists()


def test_evaluators_can_be_added_and_defaults_overridden(config):
    new = evaluate.override(
        config,
        [
            "--config.evals.aid.type=zero_shot",
            "--config.evals.aid.data=aid",
            "--config.evals.aid.class_list=aid",
            "--config.evals.val.protocols=('any',)",
            "--config.evals.scenes.templates=('{} from above',)",
        ],
    )
    assert new.evals.aid.data == new.evals.aid.class_list == "aid"
    assert new.evals.aid.protocol == "georsclip"
    assert new.evals.val.protocols == ("any",)
    assert new.evals.val.texts == ("short",)
    assert new.evals.scenes.templates == ("{} from above",)
    assert "aid" not in config.evals


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--config.evals.val.splt=test", "the nearest are --config.evals.val.split, "),
        ("--config.evals.val.limit=many", "limit"),
        ("--confg.evals.val.limit=3", "confg"),
        ("test", "cannot understand test"),
        (
            "--config.evals.value.limit=3",
            "no evaluator 'value', .* did you mean 'val'.*new one has",
        ),
        ("--config.evals.mine.type=zeroshot", "mine.type='zeroshot': .* did you mean 'zero_shot'"),
        ("--config.inpt.data_dir=d", "the nearest are --config.input.data_dir, "),
        ("--config.evals.val=retrieval", r"fields as --config\.evals\.val\.type=\.\.\.; here it"),
        ("--config.evals.my-own.type=probe", "named by letters, digits and _"),
    ],
)
def test_arguments_that_override_nothing_are_refused(config, argument, message):
    with pytest.raises(ValueError, match=message):
        evaluate.override(config, [argument])


def test_old_results_are_named_and_never_pass_for_new_ones(workdir, data, monkeypatch, capsys):
    run(workdir, f"--data={data}", "--only=scenes")
    assert "are replaced" not in capsys.readouterr().out
    monkeypatch.setattr("rsclip_jax.evaluators.zero_shot.ZeroShot.run", lambda self, params: 1 / 0)
    with pytest.raises(evaluate.EvaluationError, match="scenes failed"):
        run(workdir, f"--data={data}", "--only=scenes")
    told = f"report.html and pictures in {workdir / 'eval'} are replaced; another --output keeps"
    assert told in capsys.readouterr().out
    seen = []

    def look(self, params):
        seen.append(json.loads((workdir / "eval" / "results.json").read_text()))
        seen.append((workdir / "eval" / "report.md").read_text())
        yield "top1", 1.0

    monkeypatch.setattr("rsclip_jax.evaluators.zero_shot.ZeroShot.run", look)
    monkeypatch.setattr("rsclip_jax.evaluators.zero_shot.ZeroShot.about", lambda self: [])
    monkeypatch.setattr("rsclip_jax.evaluators.zero_shot.ZeroShot.details", lambda self: {})
    monkeypatch.setattr("rsclip_jax.evaluators.zero_shot.ZeroShot.picture", lambda self, path: None)
    monkeypatch.setattr("rsclip_jax.evaluators.draw", lambda *given: {})
    run(workdir, f"--data={data}", "--only=scenes")
    assert not seen[0]["complete"] and not seen[0]["failed"]
    assert "## scenes (places/val)\n\nNot finished." in seen[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only=,"], "--only=, names no evaluator: expected one of val, scenes"),
        (["--batch_size=0"], "batch_size=0: expected 1 or more"),
        (
            ["--config.model.variant=small"],
            r"no parameters of such .*variant: tiny there, small now",
        ),
        (["--config.model.context_length=48"], r"no parameters of such .*context_length: 24 there"),
        (["--config.model.activation=relu"], "activation='relu': expected one of"),
        (
            ["--config.input.lengths.text=25"],
            r"lengths\.text=25: expected 2 to .*context_length=24",
        ),
        (["--config.model.dtype=fp16"], "dtype='fp16': expected one of"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_it_is(workdir, data, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(workdir, f"--data={data}", *arguments)
    assert not (workdir / "eval").exists()


def test_a_model_that_is_run_otherwise_than_trained_is_told(workdir, data, capsys):
    run(workdir, f"--data={data}", "--only=scenes", "--config.model.activation=quick_gelu")
    told = "note: the model is not run as it was trained (model.activation: gelu there, quick_gelu"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("name", ["none", "none.pt"])
def test_a_model_that_is_not_there_is_told_and_nothing_is_made(tmp_path, name):
    with pytest.raises(ValueError, match=f"--model=.*{name}: no such file or directory; expected"):
        evaluate.main([f"--model={tmp_path / name}"])
    assert list(tmp_path.iterdir()) == []


def test_missing_data_and_no_evaluators_are_told(workdir, data, config):
    with pytest.raises(FileNotFoundError, match="no data set 'places' in 'elsewhere'"):
        run(workdir)
    with pytest.raises(ValueError, match=r"val\.type='x': expected one of retrieval, ir_retrieval"):
        run(workdir, f"--data={data}", "--config.evals.val.type=x")
    with pytest.raises(ValueError, match=r"--only=scene: .*; did you mean 'scenes'"):
        run(workdir, f"--data={data}", "--only=scene")
    config.evals = ConfigDict()
    with pytest.raises(ValueError, match=r"config\.evals is empty"):
        run(workdir)
