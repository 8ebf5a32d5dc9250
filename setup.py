"""Installation: `pip install -e '.[quickstart,torch,plots,logs,test]' -c constraints.txt`."""

from setuptools import find_packages, setup

setup(
    name="score_jax",
    version="0.1.0",
    description="Adversarial training in JAX, judged by the official AutoAttack",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The recipes travel with the package: `--config=configs/...` is looked for next to it.
    packages=find_packages(include=["score_jax", "score_jax.*", "configs"]),
    install_requires=[
        "absl-py",
        "array-record",
        "flax>=0.12.8,<0.13",
        "grain",
        "jax",
        "ml-collections",
        "numpy",
        "optax",
        "orbax-checkpoint",
        "packaging",
        "pillow",
        "pyyaml",
        "rich",
        "safetensors",
        "tensorflow-datasets",
        # Holes in what others declare: tensorflow-datasets 4.9.10 imports importlib_resources, and
        # jax.export writes with flatbuffers.
        "importlib_resources",
        "flatbuffers",
    ],
    extras_require={
        "quickstart": ["scikit-learn"],
        # pyautoattack is the official AutoAttack on PyPI; fra31/auto-attack from git works too.
        "torch": ["torch", "pyautoattack"],
        "logs": ["tensorboardX"],
        "plots": ["matplotlib"],
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda12]"],
        "gcs": ["gcsfs"],
        # Compiles for TPUs on a machine that has none; Linux only. jax says which libtpu fits it.
        "plan": ["jax[tpu]"],
        # kubeflow-trainer-api carries the types of JobSet and Kubernetes.
        "test": ["pytest", "pytest-xdist", "ruff", "kubeflow-trainer-api"],
    },
    entry_points={"console_scripts": ["score-jax=score_jax.cli:main"]},
)
