"""The table of what GPUs need: its rows, how it is written, and that it goes on."""

import pytest
from absl import flags
from absl.testing import flagsaver

from benchmarks import gpu_table
from rsclip_jax import aot, hlo

NEEDS = aot.Needs(8, 5 * aot.GIB, 60 * aot.GIB, {"all-reduce": (3, 2**21)}, beside=2**20,
                  state=aot.GIB, batch=aot.GIB, attention=hlo.Attention(24, 12, 1e12),
                  products=4e12, model_flops=3e12, seconds=61.0)  # fmt: skip


def test_rows_of_both_groups_are_compiled_once():
    rows = list(dict.fromkeys(gpu_table.listed(["papers", "models"], None)))
    assert len(set(rows)) == len(rows)
    assert gpu_table.Row("lrsclip:B/16", "h100:8", False) in rows
    assert sum(row.greatest for row in rows) == 4 * 3
    # Of the models' rows at their own batch only the A100's are not among the papers'.
    assert len(rows) == 2 * len(gpu_table.PAPERS) + 4 + 4 * 3
    with pytest.raises(ValueError, match="--rows=paper: expected"):
        list(gpu_table.listed(["paper"], None))


def test_what_is_there_is_not_compiled_again(monkeypatch, tmp_path):
    asked = []

    def needs(config, topology, finish=False):
        asked.append((config.input.batch_size, config.model.get("remat")))
        if len(asked) == 2:
            raise ValueError("cuDNN refuses\nin many lines")
        return NEEDS

    machine = gpu_table.topologies.Machine([None] * 8, 60 * aot.GIB, "made up")
    monkeypatch.setattr(gpu_table.topologies, "describe", lambda topology: machine)
    monkeypatch.setattr(aot, "settle", lambda config, topology: (config, None))
    monkeypatch.setattr(aot, "step_needs", needs)
    monkeypatch.setattr(gpu_table, "PAPERS", ["georsclip:ret2", "georsclip:", "fusionrs:"])
    out = tmp_path / "table"
    with flagsaver.flagsaver(rows=["papers"], cards=["h100:8"], table=str(out), finish=False):
        with pytest.raises(SystemExit, match="1 of 3 rows failed"):
            gpu_table.main([])
        table = out.with_suffix(".md").read_text().splitlines()
        assert table[3] == "| `georsclip:` | h100:8 | cuDNN refuses |" + "  |" * 8
        assert [batch for batch, _ in asked] == [600, 696, 128]  # 700 does not divide by 8
        gpu_table.main([])
        assert [batch for batch, _ in asked[3:]] == [696]  # what failed, alone
    table = out.with_suffix(".md").read_text().splitlines()
    assert (
        len(table) == 5 and "1.0 + 1.0 + 3.0 | 60.0 | 24, 12 | 2, 0, 0 | 5.0, 3.0 | 61" in table[2]
    )
    assert flags.FLAGS.table == "gpu_table"
