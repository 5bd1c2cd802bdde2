"""SECURITY.md promises only what a test holds."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_each_promise_names_a_test_that_is_there():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promised = text.partition("## Promised")[2].partition("## Not promised")[0]
    for promise in promised.split("\n- ")[1:]:
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", promise)
        assert named, promise
        for path, test in named:
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), test
