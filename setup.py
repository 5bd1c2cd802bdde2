"""Package metadata of rsclip_jax."""

from setuptools import find_packages, setup

# Lower bounds are what the test suite has run with. Caps stand where an API is known to move:
# jax, flax and optax rename public functions in minor releases, Orbax its policies, OpenCV its
# major versions.
CORE = [
    "jax>=0.10.2,<0.13",
    "flax>=0.12.8,<0.14",
    "optax>=0.2.8,<0.4",
    "orbax-checkpoint>=0.12.8,<0.14",
    "grain>=0.2.18,<0.4",
    "array_record>=0.8.3",
    "tensorflow-datasets>=4.9.9",
    "ml_collections>=1.1.0,<2",
    "absl-py>=2.1",
    "numpy>=2.0,<3",
    "instant-clip-tokenizer==0.1.1",
    "ftfy>=6.3,<7",
    "sentencepiece>=0.2.0",
    "simplejpeg>=1.8,<2",
    "opencv-python-headless>=4.10,<6",
    "pillow>=11",
    "pyarrow>=18",
    "safetensors>=0.5",
    "tqdm>=4.66",
    "tensorboardX>=2.6.2",
]

setup(
    name="rsclip_jax",
    version="0.1.0",
    description="Train remote-sensing CLIP models (GeoRSCLIP, LRSCLIP, FusionRS) in JAX",
    packages=find_packages(include=["rsclip_jax", "rsclip_jax.*"]),
    python_requires=">=3.11",
    install_requires=CORE,
    extras_require={
        "cuda": ["jax[cuda13]>=0.10.2,<0.13"],
        "tpu": ["jax[tpu]>=0.10.2,<0.13"],
        "torch": ["torch>=2.6"],
        "build": ["apache-beam>=2.60"],
        "report": ["matplotlib>=3.9"],
        "test": ["pytest>=8", "ruff>=0.9", "mypy>=1.14", "matplotlib>=3.9"],
    },
)
