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
    lines = [" " * 12 + "".join(f"{column:>12}" for column in columns)]
    for prefix, row in rows.items():
        cells = (f"{row[c]:12.2f}" if c in row else " " * 12 for c in columns)
        lines.append(f"  {prefix:10}" + "".join(cells))
    return "\n".join(line.rstrip() for line in lines)
