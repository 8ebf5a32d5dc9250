"""The JobSet of gke.sh against the published types of JobSet and Kubernetes.

`kubeflow_trainer_api` carries them as pydantic models, generated from the OpenAPI description of
Kubernetes' Go types and of those of JobSet v1alpha2, from which its custom resource definition is
generated too. They tell names, types, what is required, and the choices of Kubernetes' fields; the
choices of JobSet's stand in the fields' descriptions ("Valid values are ..."). Names of labels, and
what the controllers of a cluster check beyond types, are seen in a cluster alone.
"""

import copy
import re
import subprocess
from pathlib import Path

import pytest
import yaml

models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install -e '.[test]'")
pydantic = pytest.importorskip("pydantic")

ROOT = Path(__file__).resolve().parents[1]
FORMS = {
    "tpu": "--tpu=v5e:4x4 --slices=2 --spot --bucket=b --queue=q",
    "tpu, least": "--tpu=v6e:1x1",
    "gpu": "--gpu=nvidia-h100-80gb:8 --nodes=4 --bucket=b --spot",
}


def manifests(options):
    words = [str(ROOT / "launch/gke.sh"), "--image=img", *options.split(), "--dry-run"]
    words += ["train", "--config=a.py:x", "--workdir=/bucket/r", '--config.name=say "a: b"']
    text = subprocess.run(words, text=True, capture_output=True, check=True, timeout=60).stdout
    return list(yaml.safe_load_all(text))


def check(manifest):
    """Raises where a JobSet is not what the models say.

    The models pass over names that they do not know, so what they keep is compared.
    """
    read = models.JobsetV1alpha2JobSet.model_validate(_with_quantities(manifest))
    lost = list(_lost(manifest, read.to_dict(), ""))
    if lost:
        raise ValueError(f"unknown: {', '.join(lost)}")
    wrong = list(_outside_choices(read, ""))
    if wrong:
        raise ValueError(f"none of the choices: {', '.join(wrong)}")


def _with_quantities(value, name=""):
    """Numbers and texts of `limits` as the models want them; they take either."""
    if name == "limits":
        quantity = models.IoK8sApimachineryPkgApiResourceQuantity
        return {key: quantity(actual_instance=amount) for key, amount in value.items()}
    if isinstance(value, dict):
        return {key: _with_quantities(inner, key) for key, inner in value.items()}
    return [_with_quantities(one) for one in value] if isinstance(value, list) else value


def _lost(given, kept, where):
    if isinstance(given, dict) and isinstance(kept, dict):
        for name in given:
            if name in kept:
                yield from _lost(given[name], kept[name], f"{where}.{name}")
            else:
                yield f"{where}.{name}"
    elif isinstance(given, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{where}[{index}]")


def _outside_choices(value, where):
    if isinstance(value, list):
        for index, one in enumerate(value):
            yield from _outside_choices(one, f"{where}[{index}]")
    elif isinstance(value, pydantic.BaseModel):
        for name, field in type(value).model_fields.items():
            inner = getattr(value, name)
            told = re.search(r"Valid values are (\w+(?:, \w+)+)\.", field.description or "")
            if told and inner is not None and inner not in told.group(1).split(", "):
                yield f"{where}.{field.alias or name}={inner}"
            yield from _outside_choices(inner, f"{where}.{field.alias or name}")


@pytest.mark.parametrize("form", FORMS)
def test_the_manifest_is_a_jobset(form):
    (manifest,) = manifests(FORMS[form])
    check(manifest)


# Where it is changed, to what, and what is said of it.
POD = "spec replicatedJobs 0 template spec template spec"
MISTAKES = {
    "name, JobSet": ("spec failurePolicy", "maxRestart", 3, "maxRestart"),
    "name, Kubernetes": (POD, "nodeSelectors", {}, "nodeSelectors"),
    "type, JobSet": ("spec failurePolicy", "maxRestarts", "10", "valid integer"),
    "type, Kubernetes": (POD, "tolerations", {}, "valid list"),
    "type, deep": (f"{POD} containers 0 env 1", "value", 4, "valid string"),
    "choice, JobSet": ("spec failurePolicy rules 0", "action", "FailJob", "action=FailJob"),
    "choice, Kubernetes": (POD, "restartPolicy", "Sometimes", "enum"),
    "choice, deep": (f"{POD} tolerations 0", "effect", "NoRun", "enum"),
    "missing": ("spec replicatedJobs 0", "template", None, "template"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_manifest_is_seen(mistake):
    path, name, value, message = MISTAKES[mistake]
    broken = copy.deepcopy(manifests(FORMS["gpu"])[0])
    place = broken
    for step in path.split():
        place = place[int(step) if step.isdigit() else step]
    place[name] = value
    with pytest.raises(ValueError, match=message):  # pydantic's ValidationError is one.
        check(broken)


def test_tpu_slices_ask_for_their_chips():
    (manifest,) = manifests("--tpu=v5p:2x2x4 --slices=3 --chips-per-vm=4 --name=big")
    job = manifest["spec"]["replicatedJobs"][0]
    assert (job["replicas"], job["template"]["spec"]["completions"]) == (3, 4)
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5p-slice",
        "cloud.google.com/gke-tpu-topology": "2x2x4",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["command"][-2:] == ['--config.name=say "a: b"', "--cluster=gke"]


def test_gpu_pods_are_told_their_coordinator():
    (manifest,) = manifests("--gpu=nvidia-h100-80gb:8 --nodes=4 --name=big")
    job = manifest["spec"]["replicatedJobs"][0]
    assert (job["replicas"], job["template"]["spec"]["parallelism"]) == (1, 4)
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    # The name of the first pod of the first Job, which JobSet's service gives an address.
    assert variables == {
        "JAX_COORDINATOR_ADDRESS": "big-workers-0-0.big:8476",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": None,
    }
    assert container["command"][-3:] == [
        f"--{flag}=$({name})" for flag, name in
        zip(("coordinator", "num_processes", "process_id"), variables, strict=True)
    ]  # fmt: skip


# As the Job controller of Kubernetes words the end of a Job.
EXITED = "Container main for pod ns/p failed with exit code {} matching FailJob rule at index 1"
DISRUPTED = "Pod default/p has condition DisruptionTarget matching FailJob rule at index 0"
AGAIN = "RestartJobSet"
UNCOUNTED = "RestartJobSetAndIgnoreMaxRestarts"


@pytest.mark.parametrize(
    ("message", "action"),
    [
        (EXITED.format(2), "FailJobSet"),
        (EXITED.format(75), AGAIN),
        (EXITED.format(130), AGAIN),
        (EXITED.format(143), UNCOUNTED),
        (DISRUPTED, UNCOUNTED),
        (EXITED.format(22), None),
    ],
)
def test_exit_codes_restart_or_fail_the_jobset(message, action):
    (manifest,) = manifests(FORMS["tpu"])
    found = [
        rule["action"] for rule in manifest["spec"]["failurePolicy"]["rules"]
        if any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"])
    ]  # fmt: skip
    assert found == ([action] if action else [])


def test_a_sweep_is_a_jobset_a_setting():
    found = manifests("--tpu=v5e:2x2 --name=s --sweep=0,2-3")
    assert [one["metadata"]["name"] for one in found] == ["s-0", "s-2", "s-3"]
    for one, index in zip(found, (0, 2, 3), strict=True):
        job = one["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        assert f"--sweep_index={index}" in job["containers"][0]["command"]


def test_values_stay_text_whatever_yaml_would_make_of_them():
    options = "--namespace=123 --service-account=on --bucket=42 --queue=1e3 --name=yes"
    (manifest,) = manifests(f"--tpu=v5e:2x2 {options}")
    check(manifest)
    assert manifest["metadata"]["namespace"] == "123" and manifest["metadata"]["name"] == "yes"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "1e3"}
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "on"
    assert pod["volumes"][1]["csi"]["volumeAttributes"]["bucketName"] == "42"
