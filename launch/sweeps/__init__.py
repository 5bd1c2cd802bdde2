"""Sweeps of the papers' ablations."""
