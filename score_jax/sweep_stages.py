"""Which stages of a setting of a sweep are done: trained, exported, judged."""

import json
from pathlib import Path
from typing import Any

from score_jax import config as config_module
from score_jax import workdir
from score_jax.data import sources


def is_trained(folder: Path, config: Any) -> bool:
    """Whether a run with this config ended here; another config is for `train` to refuse."""
    place = workdir.Workdir(folder)
    if not place.config.exists():
        return False
    there = config_module.to_dict(place.read_config())
    other = config_module.differences(there, config_module.to_dict(config))
    if any(not line.startswith(workdir.MAY_CHANGE) for line in other):
        return False
    history = _read(place.run).get("history") or [{}]
    return history[-1].get("outcome") == "finished"


def is_exported(folder: Path, checkpoint: str) -> bool:
    """Whether that checkpoint of the run in a folder is exported, after its last step."""
    place = workdir.Workdir(folder)
    spec = place.export / "model.json"
    if not spec.exists() or spec.stat().st_mtime < place.metrics.stat().st_mtime:
        return False
    return _read(spec).get("checkpoint") == checkpoint


def is_judged(folder: Path, name: str, config: Any, num_examples: int) -> bool:
    """Whether what is exported in a folder was judged on so many images, as `eval/NAME`."""
    place = workdir.Workdir(folder)
    model = _read(place.export / "model.json")
    result = _read(place.eval(name) / "result.json")
    size = sources.spec(config.data.name, config.data.dir).split_sizes.get("test")
    return (
        bool(result)
        and result.get("model_sha256") == model["sha256"]["model.safetensors"]
        and result.get("num_examples") == (num_examples or size)
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
