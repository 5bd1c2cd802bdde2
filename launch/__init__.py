"""Starting runs: one anywhere, or a hundred of a sweep."""
