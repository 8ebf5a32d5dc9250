"""Files of the field's weights become artifacts, or are refused in one line."""

import importlib.util
import json
import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.torch
import torch

from score_jax import (
    artifact,
    cli,
    export,
    interop,
    interop_guess,
    interop_import,
    interop_load,
    models,
    torch_models,
)
from score_jax.data import sources
from score_jax.types import UserError

torch.set_num_threads(1)
CIFAR10 = sources.DATASETS["cifar10"]
MODEL = "wrn-10-1-relu"
SWISH = "wrn-10-1-swish"


def section(name, num_classes=10):
    return dict(
        name=name, num_classes=num_classes, image_shape=(32, 32, 3), mean=CIFAR10.mean,
        std=CIFAR10.std,
    )  # fmt: skip


def weights(name, num_classes=10, seed=0):
    """(params, batch_stats), every leaf random and of order 1."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        values = rng.uniform(0.5, 1.5, leaf.shape)
        if len(leaf.shape) > 1:
            values = rng.normal(0, 1, leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
        return values.astype(np.float32)

    return jax.tree.map(draw, interop_guess.template(section(name, num_classes)))


def state_of(name, **fields):
    return interop.to_state_dict(name, *weights(name, **fields))


def prefixed(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def saved(tmp_path, content, name="model.pt"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def assert_is(found, name, **fields):
    for ours, theirs in zip(
        (found.params, found.batch_stats), weights(name, **fields), strict=True
    ):
        jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    ("wrap", "wrappings", "prefix"),
    [
        (lambda s: s, [], ""),
        (lambda s: prefixed("module.", s), [], "module."),
        (lambda s: {"state_dict": prefixed("module.0.", s)}, ["state_dict"], "module.0."),
        (lambda s: {"net": prefixed("_orig_mod.", s), "acc": 9.5}, ["net"], "_orig_mod."),
        (lambda s: {"model": {"state_dict": s}, "epoch": 3}, ["model", "state_dict"], ""),
        (lambda s: {"net_state_dict": s}, ["net_state_dict"], ""),
    ],
)
def test_wrappings_are_taken_off_and_told(wrap, wrappings, prefix, tmp_path):
    path = saved(tmp_path, wrap(state_of(SWISH)))
    found = interop_load.load(path)
    assert_is(found, SWISH)
    assert (found.origin["wrappings"], found.origin["prefix"]) == (wrappings, prefix)
    assert found.model["name"] == SWISH
    told = " ".join(found.notes)
    assert all(repr(part) in told or part in told for part in (*wrappings, prefix) if part)


def test_of_two_sets_the_averaged_one_is_taken_unless_live_is_asked_for(tmp_path):
    averaged, live = state_of(SWISH), state_of(SWISH, seed=1)
    score = {"model_state_dict": averaged, "unaveraged_model_state_dict": live}
    timm = {"state_dict": live, "state_dict_ema": averaged}
    for content in (score, timm):
        path = saved(tmp_path, content)
        assert_is(interop_load.load(path), SWISH)
        assert_is(interop_load.load(path, weights="live"), SWISH, seed=1)
    path = saved(tmp_path, {"ema": averaged})
    with pytest.raises(UserError, match="holds no 'live' weights, only ema; give --weights=ema"):
        interop_load.load(path, weights="live")


@pytest.mark.parametrize("form", models.known_names())
def test_the_model_is_told_by_names_and_shapes(form):
    name = form.replace("D-W", "16-2")
    state = {
        stored: torch.empty(interop._to_torch_layout(np.empty(leaf.shape, bool)).shape)
        for stored, _, _, leaf in interop._ordered(name, *interop_guess.template(section(name, 7)))
    }
    twins = {name, f"{name}-normalized", name.removesuffix("-normalized")}
    fitting = set(interop_guess.guess(state, section(""), "FILE"))
    assert name in fitting and fitting <= twins


def test_twins_that_weights_do_not_tell_apart_are_asked_for(tmp_path):
    state = state_of(MODEL)
    path = saved(tmp_path, state)
    with pytest.raises(UserError, match=f"fits {MODEL} and {MODEL}-normalized, which the weights"):
        interop_load.load(path)
    assert interop_load.load(path, normalization="none").model["name"] == MODEL
    path = saved(tmp_path, {"normalize.mean": torch.full((1, 3, 1, 1), 0.5),
                            "normalize.std": torch.full((1, 3, 1, 1), 0.25),
                            **prefixed("model.", state)})  # fmt: skip
    found = interop_load.load(path)
    assert found.model["name"] == f"{MODEL}-normalized"
    assert (found.model["mean"], found.model["std"]) == ((0.5,) * 3, (0.25,) * 3)
    assert found.origin["normalization"].startswith("of the file: mean 0.5,0.5,0.5")
    with pytest.raises(UserError, match="wants|is to take its input normalised .*-normalized"):
        interop_load.load(path, model=MODEL)


def test_normalisation_is_chosen_once_and_never_silently(tmp_path):
    constants = {"mu": torch.tensor([0.5, 0.4, 0.3]), "sigma": torch.tensor(0.2)}
    plain = saved(tmp_path, state_of(SWISH), "plain.pt")
    own = saved(tmp_path, {**state_of(SWISH), **constants}, "own.pt")
    assert interop_load.load(plain).model["mean"] == CIFAR10.mean
    assert interop_load.load(plain, normalization="none").model["std"] == (1.0,) * 3
    given = interop_load.load(plain, normalization="0.5;0.1,0.2,0.3").model
    assert (given["mean"], given["std"]) == ((0.5,) * 3, (0.1, 0.2, 0.3))
    assert interop_load.load(own).model["std"] == pytest.approx((0.2,) * 3)
    usual = {"mean": torch.tensor(CIFAR10.mean), "std": torch.tensor(CIFAR10.std)}
    found = interop_load.load(saved(tmp_path, {**state_of(SWISH), **usual}, "usual.pt"))
    assert (found.model["mean"], found.model["std"]) == (CIFAR10.mean, CIFAR10.std)
    assert found.origin["normalization"].startswith("of the file, which are the dataset's: mean 0.")
    with pytest.raises(UserError, match="which --normalization=dataset is not; leave the flag out"):
        interop_load.load(own, normalization="dataset")
    for text in ("datset", "0.5", "0.5;0", "0.5;nan", "0.1,0.2;1"):
        with pytest.raises(UserError, match="--normalization="):
            interop_load.load(plain, normalization=text)
    half = saved(tmp_path, {**state_of(SWISH), "mean": torch.zeros(3)}, "half.pt")
    with pytest.raises(UserError, match="holds an input mean, and not both"):
        interop_load.load(half)


def test_other_spellings_and_modules_without_a_use(tmp_path):
    state = state_of(MODEL)
    extra = {f"sub_{name}": value for name, value in state.items() if name.startswith("block1.")}
    found = interop_load.load(saved(tmp_path, {**state, **extra}), model=MODEL)
    assert_is(found, MODEL)
    assert found.origin["unused"] == len([n for n in extra if "num_batches" not in n])
    assert "never calls: sub_block1.layer.0" in " ".join(found.notes)
    shapes = interop_guess.template(section("resnet-18"))
    state = {n: torch.empty(interop._to_torch_layout(np.empty(leaf.shape, bool)).shape)
             for n, _, _, leaf in interop._ordered("resnet-18", *shapes)}  # fmt: skip
    spelled = {
        name.replace("shortcut.", "downsample.").replace("linear.", "fc."): value
        for name, value in state.items()
    }
    matched = interop.match("resnet-18", spelled, shapes)
    assert not matched.problems and matched.renamed["linear.bias"] == "fc.bias"
    assert len(matched.renamed) == 2 + 3 * 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_converted_and_told(dtype, tmp_path):
    state = {name: value.to(dtype) if value.is_floating_point() else value
             for name, value in state_of(SWISH).items()}  # fmt: skip
    found = interop_load.load(saved(tmp_path, state))
    assert f"converted {str(dtype).removeprefix('torch.')} to float32" in found.notes
    kernel = found.params["logits"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, state["logits.weight"].float().numpy().T)


def test_safetensors_are_read(tmp_path):
    safetensors.torch.save_file(prefixed("module.", state_of(SWISH)), tmp_path / "a.safetensors")
    found = interop_load.load(tmp_path / "a.safetensors")
    assert_is(found, SWISH)
    assert found.origin["format"] == "safetensors"


class Harmful:
    ran = False

    def __reduce__(self):
        return (setattr, (Harmful, "ran", True))


def poisoned(state, name, value):
    state[name] = state[name].clone()
    state[name].view(-1)[-1] = value
    return state


def torchscript(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/constants.pkl", b"\x80\x02).")


def holding_itself(path):
    content = {}
    content["model"] = content
    torch.save(content, path)


def cut(path):
    torch.save(state_of(SWISH), path)
    path.write_bytes(path.read_bytes()[:-2000])


REFUSED = {
    "bomb": (
        lambda p: torch.save({"state_dict": Harmful()}, p), "asks for setattr; nothing of it was"
    ),
    "nan": (
        lambda p: torch.save(poisoned(state_of(SWISH), "layer.1.block.0.conv_1.weight", np.nan), p),
        "layer.1.block.0.conv_1.weight of {path} holds NaN",
    ),
    "overflow": (
        lambda p: torch.save(
            {n: v * 1e300 if n == "logits.weight" else v
             for n, v in ((n, v.double()) for n, v in state_of(SWISH).items())}, p
        ),
        "logits.weight of {path} holds NaN or infinite",
    ),
    "variance": (
        lambda p: torch.save(poisoned(state_of(SWISH), "batchnorm.running_var", -1), p),
        "batchnorm.running_var of {path} holds a negative variance",
    ),
    "classes": (
        lambda p: torch.save(state_of(SWISH, num_classes=100), p),
        "{path} tells 100 classes apart, cifar10 has 10; give --dataset=cifar100",
    ),
    "others": (
        lambda p: torch.save({"a.weight": torch.zeros(3), "b.weight": torch.zeros(2)}, p),
        "of no network that is known (2 entries: a.weight (3,), b.weight (2,), ...); give --model",
    ),
    "cut": (cut, "is cut short"),
    "itself": (holding_itself, "holds no state_dict (its entries are model)"),
    "script": (torchscript, "is a TorchScript program, not weights"),
    "text": (lambda p: p.write_text("weights"), "is no checkpoint that is known; give a .pt"),
    "page": (lambda p: p.write_text("<!DOCTYPE html>"), "it begins like a web page: download it"),
    "empty": (lambda p: p.write_bytes(b""), "is no checkpoint that is known"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "absent": (lambda p: None, "no such file"),
    "integers": (
        lambda p: torch.save({**state_of(SWISH), "x": torch.zeros(2, dtype=torch.int8)}, p),
        "x of {path} holds torch.int8 values",
    ),
    "list": (lambda p: torch.save([torch.zeros(2)], p), "holds no state_dict (it holds a list)"),
    "module": (lambda p: torch.save({"epoch": 3, "lr": 0.1}, p), "its entries are epoch, lr"),
    "missing": (
        lambda p: torch.save({(n if n != "init_conv.weight" else "init_conv.kernel"): v
                              for n, v in state_of(SWISH).items()}, p),
        "of no network that is known",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_is_not_weights_is_one_line_and_code_2(kind, tmp_path, capsys):
    write, message = REFUSED[kind]
    write(path := tmp_path / "file.pt")
    before = sorted(tmp_path.iterdir())
    assert cli.main(["import", str(path), f"--out={tmp_path / 'out'}"]) == 2
    errors = capsys.readouterr().err
    assert message.format(path=path) in errors
    assert errors.count("\n") == 1 and "Traceback" not in errors
    assert not Harmful.ran and sorted(tmp_path.iterdir()) == before


def test_a_named_model_that_does_not_fit_is_told_by_its_entries(tmp_path):
    state = state_of(SWISH)
    state["layer.0.block.0.convolution_0.weight"] = state.pop("layer.0.block.0.conv_0.weight")
    state["init_conv.weight"] = torch.zeros(16, 1, 3, 3)
    with pytest.raises(UserError) as caught:
        interop_load.load(saved(tmp_path, state), model=SWISH)
    message = str(caught.value)
    assert "1 missing: layer.0.block.0.conv_0.weight" in message
    assert "1 unexpected: layer.0.block.0.convolution_0.weight" in message
    assert "init_conv.weight is (16, 1, 3, 3), the model has (16, 3, 3, 3)" in message
    assert "(is layer.0.block.0.convolution_0.weight its layer.0.block.0.conv_0.weight?)" in message
    with pytest.raises(UserError, match="unknown config.model.name 'wrn-swish'"):
        interop_load.load(saved(tmp_path, state), model="wrn-swish")


def test_a_tensor_larger_than_its_file_is_refused_by_its_shape(tmp_path):
    huge = torch.zeros(1).expand(1 << 40)  # 4 TiB, in a file of a few bytes.
    state = {**state_of(SWISH), "logits.bias": huge}
    with pytest.raises(UserError, match=r"logits.bias is \(1099511627776,\)"):
        interop_load.load(saved(tmp_path, state), model=SWISH)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "write score-jax import FILE --out=DIR"),
        (["a.pt"], "--out=DIR is needed"),
        (["a.pt", "--out=o", "--eps=8"], "--eps=8 is not a radius in pixel units"),
        (["a.pt", "--out=o", "--eps=big"], "--eps=big is not a number"),
        (["a.pt", "--out=o", "--eps=nan"], "--eps=nan is not a radius"),
        (["a.pt", "--out=o", "--dataset=imagenet"], "unknown dataset 'imagenet'"),
        (["a.pt", "--out=o", "--dataset=cifar10_edm"], "only adds to cifar10"),
        (["https://a/b.pt", "--out=o"], "is not a local file; download it first"),
    ],
)
def test_a_mistake_in_the_command_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["import", *arguments]) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.count("\n") == 1
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("record", "out"), [("config.json", "run"), ("run.json", "run/export")])
def test_the_export_of_a_training_run_is_not_replaced(record, out, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / record).write_text("{}")
    with pytest.raises(UserError, match="run is the folder of a training run; give another --out"):
        interop_import.import_checkpoint(tmp_path / "a.pt", tmp_path / out)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    path = saved(folder, {"model_state_dict": prefixed("module.0.", state_of(SWISH))})
    facts = interop_import.import_checkpoint(path, folder / "out", eps=4 / 255, norm="l2")
    return path, facts


def test_the_artifact_says_where_it_comes_from(imported):
    path, facts = imported
    spec = artifact.load(facts["artifact"]).spec
    assert (spec["dataset"], spec["eps"], spec["norm"]) == ("cifar10", 4 / 255, "l2")
    assert spec["origin"]["file"] == "model.pt" and spec["origin"]["format"] == "PyTorch"
    assert spec["origin"]["sha256"] == artifact.sha256(path)
    assert (spec["origin"]["wrappings"], spec["origin"]["prefix"]) == (
        ["model_state_dict"], "module.0.",
    )  # fmt: skip
    assert json.loads(json.dumps(facts))["num_parameters"] == 77_850
    assert facts["next"] == f"score-jax evaluate --artifact={facts['artifact']}"


def test_the_logits_are_those_of_pytorch_and_the_export_is_the_file(imported):
    _, facts = imported
    loaded = artifact.load(facts["artifact"])
    state = state_of(SWISH)
    exported = torch.load(Path(facts["artifact"]) / export.TORCH, weights_only=True)
    assert list(exported) == list(state)
    assert all(torch.equal(exported[name], state[name]) for name in state)
    network = torch_models.create(**section(SWISH))
    network.load_state_dict(exported, strict=True)
    x = np.random.default_rng(0).uniform(0, 1, (4, 32, 32, 3)).astype(np.float32)
    theirs = network(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    ours = np.asarray(artifact.logits_fn(loaded)(x))
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def shipped(name):
    """A file of the examples that come with pyautoattack."""
    found = importlib.util.find_spec("pyautoattack")
    path = Path(found.origin).parent / "examples" / name if found else None
    if path is None or not path.is_file():
        pytest.skip(f"pyautoattack with examples/{name} is not installed")
    return path


@pytest.fixture(scope="module")
def resnet_18(tmp_path_factory):
    """The file that pyautoattack ships, its network by the class beside it, and the import."""
    path = shipped("model_test.pt")
    spec = importlib.util.spec_from_file_location("shipped_resnet", shipped("resnet.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = module.ResNet18().eval()
    network.load_state_dict(stored, strict=True)
    facts = interop_import.import_checkpoint(path, tmp_path_factory.mktemp("resnet") / "out")
    assert facts["model"] == "resnet-18" and facts["normalization"].startswith("none")
    return stored, network, Path(facts["artifact"])


def test_the_resnet_18_that_pyautoattack_ships_exports_back_equal(resnet_18):
    stored, network, folder = resnet_18
    exported = torch.load(folder / export.TORCH, weights_only=True)
    assert list(exported) == list(stored)
    floats = [name for name, value in stored.items() if value.is_floating_point()]
    assert len(floats) == 102
    assert all(torch.equal(exported[name], stored[name]) for name in floats)
    network.load_state_dict(exported, strict=True)


def both_logits(resnet_18, images):
    _, network, folder = resnet_18
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    return np.asarray(artifact.logits_fn(artifact.load(folder))(images)), theirs


def test_the_resnet_18_has_the_logits_of_its_own_class(resnet_18):
    images = np.random.default_rng(0).uniform(0, 1, (8, 32, 32, 3)).astype(np.float32)
    ours, theirs = both_logits(resnet_18, images)
    assert np.ptp(theirs) > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.skipif(sources.find("cifar10") is None, reason="CIFAR-10 is not prepared")
def test_the_resnet_18_classifies_real_images(resnet_18):
    split = sources.test_split("cifar10")
    images = split.images[:64].astype(np.float32) / 255
    ours, theirs = both_logits(resnet_18, images)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert (ours.argmax(1) == split.labels[:64]).mean() > 0.85
