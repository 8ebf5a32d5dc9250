"""Restarts that lead nowhere end; those that get on, or were asked to stop, do not."""

import json

import pytest

from score_jax import restarts
from score_jax.types import UserError
from score_jax.workdir import Workdir


@pytest.fixture
def place(tmp_path):
    place = Workdir(tmp_path)
    place.run.write_text(json.dumps({"history": []}))
    return place


def start(place: Workdir, step: int, outcome: str | None = None) -> None:
    history = json.loads(place.run.read_text())["history"]
    place.record(history=[*history, {"start": "now"}])
    restarts.begin(place, step)
    if outcome:
        place.stop(outcome)


def outcomes(place: Workdir) -> list[str | None]:
    return [entry.get("outcome") for entry in json.loads(place.run.read_text())["history"]]


@pytest.mark.parametrize("outcome", [None, "failed"], ids=["killed", "failed"])
def test_so_many_starts_from_one_step_are_refused_and_the_next_is_not(place, outcome):
    for _ in range(restarts.MOST):
        start(place, 40, outcome)
    with pytest.raises(UserError, match="10 starts in a row went on from step 40 .*logs"):
        start(place, 40)
    assert outcomes(place)[-1] == "refused"
    start(place, 40)


def test_a_checkpoint_in_between_begins_the_count_anew(place):
    for step in (0, 40, 80, 120):
        for _ in range(restarts.MOST):
            start(place, step, "failed")


def test_stops_that_were_asked_for_do_not_count(place):
    for _ in range(3 * restarts.MOST):
        start(place, 40, "stopped")
    for _ in range(restarts.MOST - 1):
        start(place, 40)
