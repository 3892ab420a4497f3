"""Installation: bounded dependencies, extras, the `musiclm` command and the gin files."""

import pathlib
import re

from setuptools import find_packages, setup

SOURCE = pathlib.Path(__file__).parent / "musiclm_jax" / "__init__.py"

setup(
  name="musiclm_jax",
  version=re.search(r'__version__ = "(.*)"', SOURCE.read_text())[1],
  description="The open JAX/Flax stack that trains and runs MusicLM, from raw audio to music.",
  license="Apache-2.0",
  python_requires=">=3.11,<3.13",
  packages=find_packages(include=["musiclm_jax*"])
  + ["musiclm_jax.gin", "musiclm_jax.data", "musiclm_jax.models"],
  package_dir={
    "musiclm_jax.gin": "gin",
    "musiclm_jax.data": "data",
    "musiclm_jax.models": "models",
  },
  package_data={
    "musiclm_jax.gin": ["**/*.gin"],
    "musiclm_jax.data": ["*"],
    "musiclm_jax.models": ["**/*"],
  },
  install_requires=[
    "absl-py>=2.1,<3",
    "apache-beam>=2.70,<2.80",
    "flax>=0.12.8,<0.13",
    "gin-config==0.5.0",
    "google-crc32c>=1.5,<2",
    "jax>=0.10.2,<0.11",
    "librosa>=0.11,<0.12",
    "matplotlib>=3.9,<4",
    "music21>=10.5,<11",
    "numpy>=2.2,<3",
    "onnxruntime>=1.22,<2",  # runs basic-pitch, see requirements-listen.txt
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12.8,<0.13",
    "packaging>=24",
    "pretty-midi>=0.2.10,<0.3",
    "pyyaml>=6,<7",
    "safetensors>=0.4,<1",
    "scikit-learn>=1.5,<2",
    "scipy>=1.14,<2",
    "sentencepiece>=0.2,<0.2.3",  # 0.2.3 needs protobuf 7, which apache-beam refuses
    "seqio==0.0.20",
    "soundfile>=0.12,<0.14",
    "soxr>=0.5,<2",
    "symusic==0.5.9",  # 0.6.0 cannot return its array under numpy 2
    "tensorboardX>=2.6.5,<3",
    "tensorflow>=2.20,<2.22",
    "tensorflow-datasets>=4.9.9,<4.10",
    "threadpoolctl>=3.5,<4",
    "tokenizers>=0.20,<1",
    "tqdm>=4.66,<5",
  ],
  extras_require={
    "gpu": ["jax[cuda13]>=0.10.2,<0.11"],
    "tpu": [
      "jax[tpu]==0.10.2",
      "libtpu==0.0.42.1",
    ],  # later libtpu cannot print v5p and v6e programs
    "hf": ["torch>=2.10,<3", "transformers>=5,<6"],
    "wandb": ["wandb>=0.19,<1"],
    "compile": ["libtpu==0.0.42.1"],  # XLA for TPUs, on any machine
    "dev": [
      "musiclm_jax[compile]",
      "hypothesis>=6.100,<7",
      "ipykernel>=6.29,<8",
      "nbclient>=0.10,<1",  # runs the notebook
      "pytest>=8,<10",
      "pytest-xdist>=3.6,<4",
      "ruff>=0.14,<0.16",
    ],
  },
  entry_points={"console_scripts": ["musiclm = musiclm_jax.main:entry"]},
)
