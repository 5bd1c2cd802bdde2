from rsclip_jax.data.seen import SeenKeys, text_key


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
