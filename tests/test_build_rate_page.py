"""The page to rate captions, in a real browser, served by the real command."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsclip_jax.build.ratings import read_ratings
from rsclip_jax.data.records import write_dataset

SCRIPT = "<script>document.title = 'broken'</script><b>a harbor</b> & 3 ships"


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((32, 48, 3), value, np.uint8)).save(file, "png")
    return file.getvalue()


class Command:
    """The command over a data set of eight captions; it can be killed and started again."""

    def __init__(self, directory: Path):
        self.output = directory / "ratings.jsonl"
        self._data = directory / "data"
        records = [
            {"id": f"r{i}", "image": png(20 * i), "captions": [f"{i} ships in a harbor"]}
            for i in range(7)
        ]
        records[0]["captions"] = [SCRIPT]
        thermal = {"id": "r7", "image": png(150), "ir": png(9), "ir_captions": ["warm roofs"]}
        write_dataset(self._data, "mine", {"train": [*records, thermal]})
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    def popen(self, *more: str) -> subprocess.Popen[str]:
        command = [
            *(sys.executable, "-m", "rsclip_jax.build.rate", f"--data={self._data}"),
            *("--name=mine", f"--output={self.output}", f"--port={self._port}", *more),
        ]
        root = Path(__file__).parents[1]
        environment = os.environ | {"PYTHONPATH": str(root)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=pipe, stderr=pipe, text=True
        )

    def start(self) -> None:
        self._process = self.popen()
        assert self._process.stdout is not None
        told = self._process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", told)
        if found is None:
            pytest.fail(f"no address in {told!r}: {self._process.communicate()[1]}")
        self.url = found[0]
        self._port = int(found[1])  # the same one after a restart, as the page expects

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(sign)
        self._process.communicate()
        self._process = None

    def stop(self) -> None:
        if self._process is not None:
            self.kill()

    def scores(self, rater: str) -> list[tuple[int, int, int]]:
        """Return the scores in the file, in the order of first rating."""
        read = [one for one in read_ratings(str(self.output)) if one.rater == rater]
        return [(one.relevance, one.hallucination, one.fluency) for one in read]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """One server for all tests, each of which has raters of its own."""
    started = Command(tmp_path_factory.mktemp("rate"))
    started.start()
    yield started
    started.stop()


def press(page, keys):
    for key in keys:
        page.keyboard.press(key)


def count(page, rated):
    """Wait until so many of the eight captions are rated."""
    page.wait_for_function(
        "n => document.getElementById('count').textContent.startsWith(`${n} of 8`)", arg=rated
    )


def saved(page):
    """Wait until the server has confirmed all answers."""
    page.wait_for_function("() => localStorage.getItem('rsclip_jax.rate.unsaved') === '[]'")


def chosen(page):
    """Return the three scores that are marked."""
    marked = page.locator("#criteria button[aria-pressed=true]")
    return [int(value) for value in marked.evaluate_all("all => all.map(one => one.value)")]


def begin(page, command, rater):
    """Give a name by keyboard only."""
    page.goto(command.url)
    page.keyboard.type(rater)
    page.keyboard.press("Enter")
    count(page, 0)


def test_captions_are_rated_by_keyboard_through_kills_of_the_server(page, command):
    begin(page, command, "Ada")
    first = page.inner_text("#caption")
    press(page, "435")
    count(page, 1)
    second = page.inner_text("#caption")
    press(page, "254")
    count(page, 2)
    saved(page)
    third = page.inner_text("#caption")
    assert len({first, second, third}) == 3
    assert command.scores("Ada") == [(4, 3, 5), (2, 5, 4)]

    # A reload goes on at the third; back leads to the second, whose scores are shown and change.
    page.reload()
    count(page, 2)
    assert page.inner_text("#caption") == third and "rater=Ada" in page.url
    press(page, ["ArrowLeft"])
    assert page.inner_text("#caption") == second and chosen(page) == [2, 5, 4]
    press(page, "111")
    assert page.inner_text("#caption") == third
    saved(page)
    assert command.scores("Ada") == [(4, 3, 5), (1, 1, 1)]

    # While the server is dead the page goes on, and keeps what it is told.
    command.kill()
    press(page, "333")
    page.wait_for_selector("#trouble:has-text('The server does not answer. 1 answer is kept')")
    press(page, "444")
    page.wait_for_selector("#trouble:has-text('2 answers are kept')")
    count(page, 4)
    assert len(command.scores("Ada")) == 2
    command.start()
    page.wait_for_selector("#trouble", state="hidden")
    saved(page)
    assert command.scores("Ada") == [(4, 3, 5), (1, 1, 1), (3, 3, 3), (4, 4, 4)]

    # Answers that the browser kept when it was closed are sent by the next visit.
    command.kill()
    press(page, "555")
    page.wait_for_selector("#trouble:has-text('1 answer is kept')")
    page.goto("about:blank")
    command.start()
    page.goto(f"{command.url}?rater=Ada")
    count(page, 5)
    saved(page)
    assert command.scores("Ada")[4:] == [(5, 5, 5)]


def test_skipped_captions_are_asked_at_the_end_and_results_shown(page, command):
    begin(page, command, "Bea")
    captions = []
    press(page, ["ArrowRight"])  # the first
    for number in range(7):
        captions.append(page.inner_text("#caption"))
        press(page, "5")
        press(page, ["Backspace"])  # back to relevance, which had been a mistake
        press(page, "254")
        count(page, number + 1)
    assert page.inner_text("#end-title") == "Nearly done"
    assert page.is_hidden("#end-results")
    press(page, ["Enter"])
    captions.append(page.inner_text("#caption"))
    press(page, ["c"])
    page.keyboard.type("1 pier too many")  # no score
    press(page, ["Escape", "1", "2", "3"])
    saved(page)
    assert page.inner_text("#end-title") == "All rated, thank you"
    assert sorted(captions) == sorted(
        [SCRIPT, "warm roofs", *(f"{i} ships in a harbor" for i in range(1, 7))]
    )
    assert page.title() == "Rate captions"  # no caption was run
    assert command.scores("Bea") == [(2, 5, 4)] * 7 + [(1, 2, 3)]
    comments = [one.comment for one in read_ratings(str(command.output)) if one.rater == "Bea"]
    assert comments == [""] * 7 + ["1 pier too many"]

    # Another rater gets the same captions in another order, here by mouse.
    page.goto(command.url)
    page.fill("#name", "Cyd")
    page.click("text=Start")
    others = []
    for number in range(8):
        count(page, number)
        others.append(page.inner_text("#caption"))
        for criterion in ("relevance", "hallucination", "fluency"):
            page.click(f"#{criterion} button[value='4']")
    assert sorted(others) == sorted(captions) and others != captions
    saved(page)
    page.click("text=Results")
    page.wait_for_url("**/results")
    assert page.inner_text("h1") == "Results"
    cells = page.locator("tr", has_text="Bea and Cyd").locator("th, td").all_inner_texts()
    assert cells == ["Bea and Cyd", "8", "0.000", "0.000", "0.000"]
    report = command.output.parent / "agreement.json"
    written = command.popen(f"--report={report}")
    text, errors = written.communicate()
    assert "Bea and Cyd" in text, errors
    assert json.loads(report.read_text()) == page.request.get(f"{command.url}results.json").json()

    # A second server would mix up the file of the first.
    busy = command.popen()
    assert "another server writes" in busy.communicate()[1] and busy.returncode == 1


def test_infrared_is_shown_beside_the_image_and_help_explains(page, command):
    begin(page, command, "Dan")
    while page.inner_text("#caption") != "warm roofs":
        assert page.locator("#pictures img").count() == 1
        press(page, [" "])
    page.wait_for_function(
        "() => [...document.querySelectorAll('#pictures img')].every(i => i.naturalWidth == 48)"
    )
    assert page.locator("#pictures img").count() == 2
    press(page, "z")
    assert page.locator("body.zoomed").count() == 1
    press(page, ["Escape"])
    assert page.locator("body.zoomed").count() == 0
    press(page, "?")
    assert "5: nothing is invented" in page.inner_text("#help")
    press(page, "5")  # means nothing while help is shown
    press(page, ["Escape"])
    page.wait_for_selector("#help", state="hidden")  # the browser closes it, in its own time
    assert chosen(page) == []
    press(page, ["ArrowDown", "ArrowDown", "2"])  # the third first
    assert chosen(page) == [2] and "active" in page.get_attribute("#relevance", "class")
    press(page, "43")
    count(page, 1)
    saved(page)
    assert command.scores("Dan") == [(4, 3, 2)]


def test_a_name_that_cannot_be_is_refused(page, command):
    page.goto(command.url)
    page.keyboard.type("a|b")
    page.keyboard.press("Enter")
    page.wait_for_selector("#name-error:has-text('not possible')")
    assert page.is_visible("#start")
