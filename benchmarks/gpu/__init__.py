"""The program for the day a GPU is at hand: see `__main__.py`."""
