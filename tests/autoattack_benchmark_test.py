"""The comparison of benchmarks/autoattack.py."""

import types

import numpy as np

from benchmarks import autoattack as benchmark


def test_what_an_interrupted_run_left_is_timed_again(monkeypatch, tmp_path):
    folder = tmp_path / "official" / "square"
    (folder / "chunks").mkdir(parents=True)

    def evaluate(*_, folder, **options):
        assert not folder.exists()
        folder.mkdir(parents=True)
        np.savez(folder / "adversarial.npz", robust=np.array([True, False]))
        return {"attacks": [{"name": "square", "robust_accuracy": 0.5}]}

    program = types.SimpleNamespace(BACKENDS={"torch": lambda *_: None}, evaluate=evaluate)
    monkeypatch.setattr(benchmark, "official_autoattack", program)
    monkeypatch.setattr(benchmark, "threat_of", lambda *_: None)
    monkeypatch.setattr(benchmark.artifacts, "logits_fn", lambda artifact: None)
    artifact = types.SimpleNamespace(
        spec={"model": {"num_classes": 2}, "sha256": {benchmark.WEIGHTS: "a" * 64}}
    )
    labels = np.array([0, 1])
    run = benchmark.official(artifact, np.zeros((2, 2, 2, 1)), labels, "torch", 0, tmp_path)
    assert run(("square",)) == {"robust": [1, 0], "after": {"square": 0.5}}
