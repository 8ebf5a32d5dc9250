"""Robust overfitting: what is told of accuracies under attack that rise and fall."""

import math

import numpy as np
import pytest

from score_jax.analysis import gaps_alarm, gaps_words

STEPS, EPOCHS = (10, 20, 30), (1.0, 2.0, 3.0)


def right(*counts, of=1000):
    """bool[measurements, of]: the first so many images are right, the same ones every time."""
    return np.arange(of)[None] < np.asarray(counts)[:, None]


def test_the_fall_and_its_error_are_those_of_the_same_images():
    trend = gaps_alarm.of_images(STEPS, EPOCHS, right(400, 500, 420), (0.5, 0.7, 0.9))
    assert (trend.best_step, trend.best_epoch, trend.last_step) == (20, 2.0, 30)
    assert (trend.best, trend.last) == (0.5, 0.42)
    assert trend.fall == pytest.approx(0.08) and trend.rise == pytest.approx(0.2)
    assert trend.error == pytest.approx(math.sqrt(0.08 * 0.92 / 1000))
    shuffled = right(400, 500, 420)
    shuffled[2] = shuffled[2, ::-1]  # Other images are right: 420 lost all, and 500 gained them.
    trend = gaps_alarm.of_images(STEPS, EPOCHS, shuffled, (0.5, 0.7, 0.9))
    assert trend.error == pytest.approx(math.sqrt((0.92 - 0.08**2) / 1000))


def test_the_error_of_accuracies_alone_is_that_of_independent_samples():
    trend = gaps_alarm.of_accuracies(STEPS, EPOCHS, (0.4, 0.5, 0.42), 1000, (0.5, 0.7, 0.9))
    assert trend.error == pytest.approx(math.sqrt((0.5 * 0.5 + 0.42 * 0.58) / 1000))
    assert trend.fall == pytest.approx(0.08) and trend.best_step == 20


def test_ties_go_to_the_later_measurement():
    trend = gaps_alarm.of_accuracies(STEPS, EPOCHS, (0.5, 0.5, 0.4), 100, (0.1, 0.2, 0.3))
    assert (trend.best_step, trend.train_best) == (20, 0.2)


@pytest.mark.parametrize(
    ("counts", "train", "is_overfitting", "words"),
    [
        ((400, 500, 420), (0.5, 0.7, 0.9), True, "ROBUST OVERFITTING (Rice et al. 2020): it was "
         "best at step 20 (epoch 2), 50.0%, and has lost 8.0 points since (standard error 0.9; "
         "chance may give 1.9 where the best of 2 is compared with the last), while on training "
         "images it rose by 20.0 points. Use the best checkpoint"),
        ((400, 500, 420), (0.5, 1.0, 1.0), True, "rose by 0.0 points"),
        ((400, 500, 420), (0.5, 0.7, 0.6), False, "but a loss: it was best at step 20 (epoch 2), "
         "50.0%, and has lost 8.0 points since (standard error 0.9; chance may give 1.9 where the "
         "best of 2 is compared with the last), and on training images it fell by 10.0 points "
         "too. Look at the learning rate"),
        ((400, 500, 491), (0.5, 0.7, 0.9), False, "which is less than 1 point; on training"),
        ((400, 450, 500), (0.5, 0.7, 0.9), False, "it is best at the last step 30, 50.0%"),
        ((0, 0, 0), (0.0, 0.0, 0.0), False, "it is 0% at every step, there is nothing to lose"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_happened(counts, train, is_overfitting, words):
    trend = gaps_alarm.of_images(STEPS, EPOCHS, right(*counts), train)
    assert trend.is_overfitting is is_overfitting
    told = gaps_alarm.tell(trend, "it", "on training images")
    assert words in told
    assert told.startswith("ROBUST OVERFITTING" if is_overfitting else "No ")


def test_few_images_raise_no_alarm():
    """Eight points on 50 images are within what chance does: 4 lost images, and 3 gained."""
    few = np.zeros((2, 50), bool)
    few[0, :25], few[1, 7:28] = True, True
    trend = gaps_alarm.of_images((1, 2), (1.0, 2.0), few, (0.5, 0.9))
    assert trend.fall == pytest.approx(0.08) and not trend.is_overfitting
    told = gaps_alarm.tell(trend, "it", "there")
    assert told.startswith("No proof of robust overfitting") and "which is within chance" in told
    assert told.endswith("Two measurements tell little.")


@pytest.mark.parametrize("count", [2, 10, 30])
def test_false_alarms_are_as_rare_however_many_checkpoints_the_best_is_chosen_of(count):
    """Models that are all equally good: the best of them only had luck."""
    random, alarms, runs = np.random.default_rng(0), 0, 1000
    steps = range(count)
    for _ in range(runs):
        drawn = random.random((count, 400)) < 0.5
        alarms += gaps_alarm.of_images(steps, steps, drawn, steps).is_overfitting
    assert 0 < alarms / runs < 0.035


def test_the_error_of_accuracies_alone_is_said_to_be_an_upper_one():
    trend = gaps_alarm.of_accuracies(STEPS, EPOCHS, (0.4, 0.5, 0.42), 1000, (0.5, 0.7, 0.9))
    assert "(standard error at most 2.2; chance may give 5.0" in gaps_alarm.tell(trend, "it", "on")


class FakeRun:
    """Three validations on 400 images, and a training metric at every half epoch."""

    judge = "val/pgd40_accuracy"
    config = {"data": {"validation_size": 400}}
    metrics = tuple(
        {"step": float(10 * epoch), "epoch": epoch, "val/pgd40_accuracy": value}
        for epoch, value in zip(EPOCHS, (0.3, 0.6, 0.4), strict=True)
    )
    train = ((0.5, 1.0, 1.5, 2.0, 2.5, 3.0), (0.1, 0.3, 0.5, 0.7, 0.8, 1.0))

    def series(self, metric):
        if metric == self.judge:
            return list(EPOCHS), [0.3, 0.6, 0.4]
        return self.train if metric == "train/adv_accuracy" else ([], [])


def test_validations_while_training_are_judged_too():
    found = gaps_words.validation_of(FakeRun())
    assert (found.judge, found.num_images) == ("PGD-40", 400)
    assert found.trend.best_step == 20 and found.trend.is_overfitting
    # The batches of the second epoch and of the third.
    assert found.trend.train_best == pytest.approx(0.6)
    assert found.trend.train_last == pytest.approx(0.9)


@pytest.mark.parametrize("change", [{"judge": ""}, {"train": ([], [])}, {"config": {"data": {}}}])
def test_without_an_attack_or_validation_there_is_nothing_to_judge(change):
    run = FakeRun()
    for name, value in change.items():
        setattr(run, name, value)
    assert gaps_words.validation_of(run) is None
