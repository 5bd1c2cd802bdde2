"""Reading what stands after the colon of --config=configs/NAME.py:WORD,WORD."""

from collections.abc import Mapping
from types import MappingProxyType


def choose(
    file: str,
    arg: str | None,
    *,
    apart: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    **choices: tuple[str, ...],
) -> dict[str, str]:
    """Return one word for each name in `choices`: the one that `arg` has, else the first.

    Args:
      file: of the config, for the message.
      arg: words in any order, separated by commas; None or "" for none.
      apart: word -> names whose words make no sense beside it.
      choices: name -> words, of which one may be given; the first, which may be "", by default.

    Raises:
      ValueError: a word that is not among them, two of one name, or words to be kept apart.
    """
    found: dict[str, str] = {}
    for word in filter(None, (arg or "").split(",")):
        name = next((name for name, words in choices.items() if word in words), None)
        if name is None or name in found:
            problem = "unknown" if name is None else f"not beside {found[name]!r}"
            expected = "; ".join(" or ".join(filter(None, words)) for words in choices.values())
            raise ValueError(
                f"configs/{file}.py:{arg}: {word!r} is {problem}; separate by commas at most one "
                f"of each: {expected}"
            )
        found[name] = word
    for word, names in apart.items():
        beside = [found[name] for name in names if name in found]
        if word in found.values() and beside:
            raise ValueError(f"configs/{file}.py:{arg}: leave out {beside[0]!r} beside {word!r}")
    return {name: found.get(name, words[0]) for name, words in choices.items()}
