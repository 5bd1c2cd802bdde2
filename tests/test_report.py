"""What a report shows of results, and that it is well-formed."""

import html.parser

import pytest
from PIL import Image

from rsclip_jax.evaluators import suites
from rsclip_jax.evaluators.report import markdown, page, table


def test_prefixes_are_rows_and_long_names_keep_their_distance():
    metrics = {"t2i_R@1": 1.234, "long_t2i_R@1": 50.0, "linear_16shot_std": 2.0}
    header, first, second = table(metrics, "any").splitlines()
    assert header.split() == ["t2i_R@1", "linear_16shot_std"]
    assert first.split() == ["any", "1.23", "2.00"]
    assert second.split() == ["long_any", "50.00"]
    assert header.endswith("  linear_16shot_std") and len(first) == len(header)


def test_rows_of_the_protocol_without_a_prefix_name_it():
    rows = ("", "worst_", "multi_", "long_", "long_worst_", "long_multi_worst_")
    _, *lines = table({f"{row}i2t_R@1": 1.0 for row in rows}, "any").splitlines()
    assert [line.split()[0] for line in lines] == [
        *("any", "any_worst", "multi", "long_any", "long_any_worst", "long_multi_worst")
    ]


def test_columns_stay_below_each_other_and_fractions_have_four_places():
    metrics = {"long_skyscript_i2t_mean": 5.0, "i2t_mean": 7.5, "ir2t_R@1": 1.0, "Rmi": 0.7447}
    header, skyscript, plain = table(metrics, "any").splitlines()
    assert header.split() == ["i2t_mean", "ir2t_R@1", "Rmi"]
    assert skyscript.index("5.00") + 4 == plain.index("7.50") + 4 == header.index("i2t_mean") + 8
    assert "0.7447" in plain


def test_late_fusion_has_rows_of_its_own_means_below_the_others():
    names = ("ir2t_R@1", "text_mean", "rgb2t_R@1", "fused2t_R@1", "fused_mean", "fused_alpha")
    header, *rows = table(dict.fromkeys(names, 0.25), "fusionrs").splitlines()
    assert header.split() == ["ir2t_R@1", "rgb2t_R@1", "fused2t_R@1", "fused_alpha", "mean"]
    rows = [row.split() for row in rows]
    assert rows == [["fusionrs"] + ["0.25"] * 4, ["text", "0.25"], ["fused", "0.25"]]


SUITE = {
    "title": "A suite",
    "note": "A note.",
    "evals": {
        "aid": {"type": "zero_shot", "protocol": "georsclip"},
        "slt": {"type": "semantic_localization", "images": "{data}/imgs"},
        "x": {},
    },
    "images": {"aid": 20, "slt": 59},
    "published": [
        {"model": "CLIP", "source": "a paper", "numbers": {"aid/top1": 66.22, "x/y": 1.0}},
        {
            "model": "Remote*CLIP",
            "source": "a paper",
            "images": {"aid": 10_000},
            "numbers": {"slt/Rmi": 0.7, "aid/top1": 70.0},
        },
    ],
}


@pytest.fixture
def results(monkeypatch):
    monkeypatch.setattr(suites, "read", {"ours": SUITE}.__getitem__)
    return {
        "model": "/runs/<mine>{body}",
        "description": "small, 96 px",
        "step": 1200,
        "date": "2026-01-02",
        "metrics": {"aid/top1": 61.234, "aid/top5": 90.0, "slt/Rmi": 0.71234, "own/t2i_R@1": 5.0},
        "evals": {
            "aid": {"type": "zero_shot", "protocol": "georsclip", "limit": 0},
            "slt": {"type": "semantic_localization", "images": "/data/imgs"},
            "own": {},
        },
        "details": {
            "aid": {
                "size": 20,
                "about": ["aid/all: 20 images, 2 classes", "georsclip: 105 prompts"],
                "intervals": {"top1": [40.0, 80.0]},
                "class_names": ["bare land", "<river>"],
                "confusion": [[6, 4], [1, 9]],
            },
            "slt": {"size": 59},
            "own": {"oracle": {"t2i_R@1": 92.62}},
        },
        "suite": "ours",
        "skipped": {"rsicd": "no data set. Get it (https://example.org/r?a=1&b=2). Then: prepare"},
        "failed": {},
    }


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_markdown_puts_published_numbers_beside_ours(results):
    text = markdown(results)
    rows = cells(text)
    assert ["", "this model", "CLIP", r"Remote\*CLIP"] in rows
    assert ["aid top1", "61.23", "66.22", r"70.00 (\*)"] in rows
    assert ["slt Rmi", "0.7123", "", "0.7000"] in rows
    assert not any(row and row[0].startswith("x ") for row in rows)  # nothing of ours to compare
    assert r"(\*) aid has 20 here, 10,000 in the published number (Remote\*CLIP)" in text
    assert r"- CLIP; Remote\*CLIP: a paper" in text
    assert ["top1", "61.23", "40.00 to 80.00"] in rows
    assert ["t2i_R@1", "5.00", "92.62"] in rows
    assert r"bare land for \<river\> (40 %); \<river\> for bare land (10 %)" in text
    assert "- rsicd: no data set." in text
    assert "Failed" not in text


def test_numbers_made_otherwise_are_starred(results):
    results["evals"]["aid"]["protocol"] = "plain"
    text = markdown(results)
    assert ["aid top1", "61.23", r"66.22 (\*)", r"70.00 (\*)"] in cells(text)
    assert r"aid was run with protocol='plain' (CLIP; Remote\*CLIP)" in text
    results["evals"]["aid"]["protocol"] = "georsclip"
    SUITE["images"].pop("slt")
    assert "slt: of which images the published number is, is not known" in markdown(results)
    SUITE["images"]["slt"] = 59


def test_failed_evaluators_are_listed(results):
    results["failed"] = {"rsitmd": "OSError: disk full"}
    assert "## Failed\n\n- rsitmd: OSError: disk full" in markdown(results)


def test_markdown_without_a_suite_has_no_comparison(results):
    results["suite"], results["skipped"] = None, {}
    text = markdown(results)
    assert "published" not in text and "Skipped" not in text
    assert "## aid" in text
    results["evals"]["own"] = {"data": "rsicd", "split": "test"}
    assert "## own (rsicd/test)" in markdown(results)


def test_page_is_one_well_formed_file_with_its_pictures(results, tmp_path):
    Image.new("RGB", (3, 2)).save(tmp_path / "aid.png")
    text = page(results, {"aid": tmp_path / "aid.png"})

    class Checker(html.parser.HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.seen, self.data = [], [], []

        def handle_starttag(self, tag, attributes):
            self.seen.append((tag, dict(attributes)))
            if tag not in ("meta", "img"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.data.append(data)

    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert "Evaluation of <mine>{body}" in checker.data
    pictures = [attributes["src"] for tag, attributes in checker.seen if tag == "img"]
    assert len(pictures) == 1 and pictures[0].startswith("data:image/png;base64,")
    links = [attributes["href"] for tag, attributes in checker.seen if tag == "a"]
    assert links == ["https://example.org/r?a=1&b=2"]
    assert "61.23" in checker.data and "66.22" in checker.data
