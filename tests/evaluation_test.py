"""Evaluation counts every example once, on any number of devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_jax import attacks, evaluation, mesh, metrics
from score_jax.models import Classifier
from score_jax.types import UserError


def brightness_classifier():
    """Class 1 where the mean pixel is above one half: its robust accuracy is known."""

    def apply(params, batch_stats, images, *, normalize_by, momentum=None):
        assert normalize_by == "running"
        margin = 10 * (images.mean(axis=(1, 2, 3)) - 0.5)
        return jnp.stack([-margin, margin], axis=-1), batch_stats

    return Classifier(
        init=None, apply=apply, roles={}, batchnorm_momentum=0.1, image_shape=(2, 2, 1)
    )


def flat_images(values):
    images = np.zeros((len(values), 2, 2, 1), np.uint8)
    images[:] = np.asarray(values, np.uint8)[:, None, None, None]
    return images, (np.asarray(values) > 127).astype(np.int32)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("batch_size", [5, 16, 100])
@pytest.mark.parametrize("loss", ["margin", "cross_entropy"])
def test_accuracies_are_exact(devices, batch_size, loss, monkeypatch):
    traced, adversarial = [], evaluation.Judge.adversarial

    def counted(*arguments):
        traced.append(True)  # The body runs once, when it is traced.
        return adversarial(*arguments)

    monkeypatch.setattr(evaluation.Judge, "adversarial", counted)
    values = np.arange(0, 37) * 7  # 37 images, of which some are within 0.1 of the boundary.
    images, labels = flat_images(values)
    labels[3] = 1 - labels[3]
    layout = mesh.create(jax.devices()[:devices])
    judge = evaluation.Judge(
        attack=attacks.create(norm="linf", eps=0.1, step_size=0.05, num_steps=6), loss=loss
    )
    evaluate = evaluation.compile_evaluation(brightness_classifier(), judge, layout)
    placed = evaluation.place(images, labels, batch_size, layout)
    result = evaluation.accuracies(evaluate, {}, {}, placed, jax.random.key(0))
    robust = np.abs(values / 255 - 0.5) > 0.1
    robust[3] = False
    assert result == {
        "clean_accuracy": pytest.approx(36 / 37),
        "pgd6_accuracy": pytest.approx(robust.sum() / 37),
    }
    assert len(traced) == 1


def test_apgd_judges_too():
    values = np.arange(0, 37) * 7
    images, labels = flat_images(values)
    judge = evaluation.create_judge(
        "apgd-ce", loss="margin", norm="linf", eps=0.1, step_size=0.0, num_steps=6, start="zero"
    )
    layout = mesh.create()
    evaluate = evaluation.compile_evaluation(brightness_classifier(), judge, layout)
    placed = evaluation.place(images, labels, 16, layout)
    assert evaluation.accuracies(evaluate, {}, {}, placed, jax.random.key(0)) == {
        "clean_accuracy": 1,
        "apgd_ce6_accuracy": pytest.approx((np.abs(values / 255 - 0.5) > 0.1).mean()),
    }
    with pytest.raises(UserError, match="unknown config.validation.attack.name 'fab-t'"):
        evaluation.create_judge("fab-t", norm="linf", eps=0.1, num_steps=6)


class Nothing:
    """A judge whose images are no numbers."""

    name = "nothing"

    def adversarial(self, logits, key, images, labels):
        return images * jnp.nan


def test_images_that_are_no_numbers_fool_nobody():
    images, labels = flat_images(np.arange(0, 37) * 7)
    layout = mesh.create()
    evaluate = evaluation.compile_evaluation(brightness_classifier(), Nothing(), layout)
    placed = evaluation.place(images, labels, 16, layout)
    result = evaluation.accuracies(evaluate, {}, {}, placed, jax.random.key(0))
    assert result == {"clean_accuracy": 1, "nothing_accuracy": 1}


def test_a_whole_batch_lies_in_its_order_on_devices_in_any_order(monkeypatch):
    layout = mesh.create([jax.devices()[index] for index in (2, 0, 3, 1)])
    whole = np.arange(16).reshape(8, 2)
    # In every process alike: nothing depends on which one this is.
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    (placed,) = layout.put_whole_batch([whole])
    np.testing.assert_array_equal(placed, whole)
    shards = {shard.device.id: shard.data for shard in placed.addressable_shards}
    np.testing.assert_array_equal(shards[jax.devices()[2].id], whole[:2])


def test_padding_never_counts():
    images, labels = flat_images([200] * 7)
    batches = list(evaluation.padded_batches(images, labels, 4))
    assert [batch["mask"].sum() for batch in batches] == [4, 3]
    assert all(len(batch["images"]) == 4 for batch in batches)


def test_unknown_loss_is_refused():
    attack = attacks.create(norm="linf", eps=0.1, step_size=0.05, num_steps=1)
    with pytest.raises(UserError, match="did you mean 'margin'"):
        evaluation.Judge(attack=attack, loss="margins")


def test_means_merge_exactly():
    parts = [metrics.Mean.of(jnp.array(part)) for part in ([1.0, 2.0, 6.0], [3.0])]
    assert metrics.compute({"x": parts[0] + parts[1]}) == {"x": 3.0}


def test_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(
        UserError, match="config.x=6 must be divisible by the 4 devices; use 4 or 8"
    ):
        mesh.create().check_divides(6, "config.x")
