"""`score-jax analyze lipschitz`: how fast the logits of a model change near images."""

from collections.abc import Iterator

from score_jax import artifact as artifacts
from score_jax.analysis import lipschitz
from score_jax.analysis.finding import Finding
from score_jax.command_line import Call, UsageError
from score_jax.command_line_run import artifact_of, radius_of
from score_jax.data import sources


def run(call: Call) -> Iterator[Finding]:
    """The released estimate and the corrected one."""
    path = artifact_of(call)
    if call.steps < -1:
        raise UsageError(f"--steps={call.steps} is no walk; give 0 or more")
    eps = radius_of(call, path, "linf")
    artifact = artifacts.load(path)
    spec = artifact.spec
    if eps is None and spec["norm"] != "linf":
        raise UsageError(
            f"--eps is needed, such as --eps=8/255: the walk is in the L∞ ball, the model's "
            f"own radius {spec['eps']:g} is of norm {spec['norm']}"
        )
    eps = float(spec["eps"] if eps is None else eps)
    read = {"test": sources.test_split, "train": sources.train_split}[call.split]
    data = read(spec["dataset"], call.data_dir)
    steps = lipschitz.NUM_STEPS if call.steps == -1 else call.steps
    images = data.images[: call.num_examples or len(data)]
    means = {
        lip_sign: lipschitz.average(
            artifact, images, eps=eps, lip_sign=lip_sign, steps=steps, seed=call.seed,
            batch_size=call.batch_size,
        )
        for lip_sign in lipschitz.LIP_SIGNS
    }  # fmt: skip
    note = (
        "official descends the ratio, as the code behind the published numbers did; "
        "ascent is an estimate of the maximum that was meant, from below"
    )
    yield Finding(
        name="lipschitz",
        title="Local Lipschitz constant",
        summary=[f"official {means['official']:.3f}, ascent {means['ascent']:.3f}.", note],
        facts={
            "dataset": data.name,
            "split": call.split,
            "num_examples": len(images),
            "eps": eps,
            "steps": steps,
            "step_size": lipschitz.STEP_SIZE,
            "seed": call.seed,
            **means,
            "note": note,
            "model_sha256": spec["sha256"]["model.safetensors"],
            "data_sha256": data.fingerprint,
        },
    )
