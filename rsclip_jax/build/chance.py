"""What is drawn by chance, and the same each time: by the SHA-256 of names."""

import hashlib


def digest(name: str) -> bytes:
    """Hash a name: what is put into the order of these is in an order of chance."""
    return hashlib.sha256(name.encode()).digest()


def drawn(name: str, share: float) -> bool:
    """Tell whether a name is among a share of all names.

    Shares are nested: what is in a smaller one is in every larger one. They have nothing to do with
    the order of `digest`.
    """
    return int.from_bytes(digest(f"drawn {name}")[:8], "big") < share * 2**64
