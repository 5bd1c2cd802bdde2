"""How evaluation results are shown in a terminal."""

import re
from collections.abc import Mapping

_COLUMN = re.compile(r"(i2t_R@\d+|t2i_R@\d+|mean_recall)$")


def table(metrics: Mapping[str, float]) -> str:
    """Lay metrics out with a row for each prefix ("long_multi_") and a column for what follows."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        match = _COLUMN.search(name)
        column = match[0] if match else name
        rows.setdefault(name.removesuffix(column).rstrip("_"), {})[column] = value
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    widths = [max(12, len(column) + 2) for column in columns]
    pairs = list(zip(columns, widths, strict=True))
    lines = [" " * 12 + "".join(f"{column:>{width}}" for column, width in pairs)]
    for prefix, row in rows.items():
        cells = (f"{row[c]:{width}.2f}" if c in row else " " * width for c, width in pairs)
        lines.append(f"  {prefix:10}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)
