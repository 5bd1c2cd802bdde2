from rsclip_jax.evaluators.report import table


def test_prefixes_are_rows_and_long_names_keep_their_distance():
    found = table({"t2i_R@1": 1.234, "long_t2i_R@1": 50.0, "linear_16shot_std": 2.0})
    header, first, second = found.splitlines()
    assert header.split() == ["t2i_R@1", "linear_16shot_std"]
    assert first.split() == ["1.23", "2.00"]
    assert second.split() == ["long", "50.00"]
    assert header.endswith("  linear_16shot_std") and len(first) == len(header)
