"""Build the papers' data sets: steps on Apache Beam, and the pipelines made of them.

Needs the extra `build` (pip install "rsclip_jax[build]"); nothing outside this package imports it.
"""

import logging

# Beam tells of Google's libraries, missing or not, before anyone asks for them.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
