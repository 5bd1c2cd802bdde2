from rsclip_jax.data.seen import FirstSplits, Repeats, SeenKeys, text_key


def keys(first, last):
    return [text_key(f"{index}") for index in range(first, last)]


def test_keys_met_long_ago_are_remembered(monkeypatch):
    monkeypatch.setattr(SeenKeys, "RECENT", 7)
    seen = SeenKeys()
    assert all(map(seen.add, keys(0, 100)))
    assert not any(map(seen.add, keys(0, 100)))
    assert all(key in seen for key in keys(0, 100))
    assert text_key("new") not in seen
    assert seen.add(text_key("new"))
    assert len(seen) == 101


def test_keys_of_two_sets_are_counted_once(monkeypatch):
    monkeypatch.setattr(SeenKeys, "RECENT", 7)
    one, other = SeenKeys(), SeenKeys()
    for key in keys(0, 40):
        one.add(key)
    for key in keys(30, 55):
        other.add(key)
    one.update(other)
    assert len(one) == 55
    assert not any(map(one.add, keys(0, 55)))
    assert one.add(text_key("new"))


def test_repeats_tell_how_often_a_key_is_still_to_come():
    repeats = Repeats([5, 7, 5, 2**64 - 1, 5, 9, 9])
    assert len(repeats) == 2
    assert [repeats.take(key) for key in (7, 5, 2**64 - 1, 5, 6, 5, 5)] == [-1, 2, -1, 1, -1, 0, -1]


def test_the_first_split_of_a_key_is_told():
    splits = FirstSplits()
    assert splits.meet(1, "train") is None
    assert splits.meet(2, "test") is None
    assert [splits.meet(1, "test"), splits.meet(2, "test"), splits.meet(1, "train")] == [
        *("train", "test", "train")
    ]
