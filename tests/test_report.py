"""What a report shows of results, and that it is well-formed."""

import html.parser

import pytest
from PIL import Image

from rsclip_jax.evaluators.report import markdown, page, table


def test_prefixes_are_rows_and_long_names_keep_their_distance():
    found = table({"t2i_R@1": 1.234, "long_t2i_R@1": 50.0, "linear_16shot_std": 2.0})
    header, first, second = found.splitlines()
    assert header.split() == ["t2i_R@1", "linear_16shot_std"]
    assert first.split() == ["1.23", "2.00"]
    assert second.split() == ["long", "50.00"]
    assert header.endswith("  linear_16shot_std") and len(first) == len(header)


@pytest.fixture
def results():
    return {
        "model": "/runs/<mine>",
        "description": "small, 96 px",
        "step": 1200,
        "date": "2026-01-02",
        "metrics": {"aid/top1": 61.234, "aid/top5": 90.0, "slt/Rmi": 0.71234, "own/t2i_R@1": 5.0},
        "evals": {"aid": {}, "slt": {}, "own": {}},
        "details": {
            "aid": {
                "size": 20,
                "data": ["aid/all: 20 images, 2 classes"],
                "protocol": ["105 prompts"],
                "intervals": {"top1": [40.0, 80.0]},
                "class_names": ["bare land", "river"],
                "confusion": [[6, 4], [1, 9]],
            },
            "own": {"oracle": {"t2i_R@1": 92.62}},
        },
        "suite": {
            "title": "A suite",
            "note": "A note.",
            "sizes": {"aid": 10_000},
            "skipped": {
                "rsicd": "no data set. Get it from https://example.org/rsicd; then: prepare"
            },
            "published": [
                {"model": "CLIP", "source": "a paper", "numbers": {"aid/top1": 66.22, "x/y": 1.0}},
                {"model": "RemoteCLIP", "source": "a paper", "numbers": {"slt/Rmi": 0.7}},
            ],
        },
    }


def test_markdown_puts_published_numbers_beside_ours(results):
    text = markdown(results)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["", "this model", "CLIP", "RemoteCLIP"] in rows
    assert ["aid top1 *", "61.23", "66.22", ""] in rows
    assert ["slt Rmi", "0.7123", "", "0.7000"] in rows
    assert not any(row and row[0].startswith("x ") for row in rows)  # nothing of ours to compare
    assert "* not comparable: aid has 20 here, 10,000 in the published numbers" in text
    assert "- CLIP; RemoteCLIP: a paper" in text
    assert ["top1", "61.23", "40.00 to 80.00"] in rows
    assert ["t2i_R@1", "5.00", "92.62"] in rows
    assert "bare land for river (40 %); river for bare land (10 %)" in text
    assert "- rsicd: no data set." in text
    assert len({line.count("|") for line in text.splitlines() if "RemoteCLIP |" in line}) == 1


def test_markdown_without_a_suite_has_no_comparison(results):
    results["suite"] = None
    text = markdown(results)
    assert "published" not in text and "Skipped" not in text
    assert "## aid" in text


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
    assert "Evaluation of <mine>" in checker.data
    pictures = [attributes["src"] for tag, attributes in checker.seen if tag == "img"]
    assert len(pictures) == 1 and pictures[0].startswith("data:image/png;base64,")
    links = [attributes["href"] for tag, attributes in checker.seen if tag == "a"]
    assert links == ["https://example.org/rsicd"]
    assert "61.23" in checker.data and "66.22" in checker.data
