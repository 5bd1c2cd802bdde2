"""Build the papers' data sets: steps on Apache Beam, and the pipelines made of them.

Needs the extra `build` (pip install "rsclip_jax[build]"); nothing outside this package imports it.
"""
