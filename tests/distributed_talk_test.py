"""What processes tell each other: values, for whom one waits, and who did not come."""

import json
import logging
import threading

import jax
import pytest

from score_jax import distributed_peers, distributed_talk
from score_jax.distributed_cluster import Cluster
from score_jax.distributed_peers import PeerFailure, Peers
from score_jax.distributed_talk import CLEAR_ROUNDS, SAID, Talk
from tests.pods import HEARTBEAT, free_port


class Service(dict):
    """The coordination service as its client shows it; of this process alone."""

    def key_value_set(self, key, value, allow_overwrite=False):
        assert allow_overwrite or key not in self
        self[key] = value

    def blocking_key_value_get(self, key, milliseconds):
        for _ in range(5):
            if key in self:
                return self[key]
            threading.Event().wait(milliseconds / 5000)
        raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key}")

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in self.items() if key.startswith(f"{folder}/")]

    def key_value_increment(self, key, amount):
        self[key] = str(int(self.get(key, 0)) + amount)

    def key_value_delete(self, folder):
        for key, _ in self.key_value_dir_get(folder):
            del self[key]


def test_each_hears_what_all_say():
    service, heard = Service(), {}

    def take_part(process):
        talk = Talk(service, process, 3)
        heard[process] = (
            talk.from_all([process, "ä"], "come", 10),
            talk.from_primary(process, "", 9),
        )

    others = [threading.Thread(target=take_part, args=(process,)) for process in (1, 2)]
    for thread in others:
        thread.start()
    take_part(0)
    for thread in others:
        thread.join()
    assert list(heard.values()) == [([[0, "ä"], [1, "ä"], [2, "ä"]], 0)] * 3


@pytest.mark.parametrize(("process", "missed"), [(0, [1, 3]), (2, [1, 3]), (None, [0])])
def test_who_does_not_come_is_named(process, missed):
    service = Service({f"{SAID}/1/{here}": "0" for here in (0, 2) if here != process})
    with pytest.raises(PeerFailure) as failure:
        if process is None:
            Talk(Service(), 2, 4).from_primary(0, "open the folder", 0.1)
        else:
            Talk(service, process, 4).from_all(0, "open the folder", 0.1)
    who = f"process {', '.join(map(str, missed))}"
    assert f"of 4: {who} did not open the folder (0 s); the same command" in str(failure.value)
    assert list(failure.value.processes) == missed


def test_one_that_is_waited_for_is_told_now_and_then(monkeypatch, caplog):
    monkeypatch.setattr(distributed_talk, "TELL_SECONDS", 0.5)
    service = Service()
    threading.Timer(1.6, service.key_value_set, (f"{SAID}/1/1", "7")).start()
    with caplog.at_level(logging.INFO):
        assert Talk(service, 0, 2).from_all(6, "open the folder", 20) == [6, 7]
    assert caplog.messages == ["process 0 of 2: waiting for process 1 to open the folder (1 s)"]


def test_what_all_have_read_is_removed():
    service = Service()
    talks = [Talk(service, process, 2) for process in (0, 1)]
    for number in range(3 * CLEAR_ROUNDS):
        for talk in talks:
            assert talk.from_primary(number, "", 1) == number
    # What process 1 read last, process 0 does not know yet.
    assert len(service.key_value_dir_get(SAID)) == CLEAR_ROUNDS
    for _ in range(CLEAR_ROUNDS):
        assert talks[0].from_primary(0, "", 1) == 0
    assert len(service.key_value_dir_get(SAID)) == CLEAR_ROUNDS


def peers(process, count):
    return Peers(Cluster(f"127.0.0.1:{free_port()}", count, process, "flags"), HEARTBEAT)


@pytest.mark.parametrize(
    ("left", "line"),
    [
        (dict(message="no space", missed=[[], ""]), "process 1 on b ended: no space"),
        (dict(message="", missed=[[], ""]), "process 1 on b ended"),
        (dict(message="process 1 of 3: process 2 died", missed=[[2], "silence"]),
         "process 2 died or lost contact (silence, says process 1 on b)"),
        (dict(message="process 1 of 3: process 0 died", missed=[[0], "no sign of life for 9 s"]),
         "process 1 on b took this one for lost (no sign of life for 9 s)"),
    ],
)  # fmt: skip
def test_the_end_of_another_is_told_without_its_report(left, line, monkeypatch):
    there = dict(process=1, host="b", code=75, **left)
    monkeypatch.setattr(distributed_peers, "_value", lambda client, key: json.dumps(there))
    mine, told = peers(0, 3), []
    monkeypatch.setattr(mine, "end", lambda *words: told.append(words))
    mine._hear_of_end(Service())
    assert told == [(75, f"{line}; {distributed_peers.GOES_ON}")]


def test_the_real_silence_is_told(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(distributed_peers.time, "monotonic", lambda: now[0])
    mine = peers(0, 3)
    for moment, process in ((100.0, 1), (100.0, 2), (130.0, 1)):
        now[0] = moment
        mine._hear_from(process, str(moment))
    now[0] = 133.0
    assert mine.describe_loss("").startswith(
        "process 2 died or lost contact (no sign of life for 33"
    )
    assert mine.missed == ([2], "no sign of life for 33 s")


def test_a_process_that_was_stopped_says_so_of_itself(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(distributed_peers.time, "monotonic", lambda: now[0])
    mine = peers(1, 2)
    monkeypatch.setattr(mine._is_over, "wait", lambda seconds: now.__setitem__(0, 145.0))
    assert not mine._rest()
    assert mine.describe_loss("").startswith(
        "the others went on without this process, which stood still for 45 s; the same command"
    )
    now[0] += 2 * HEARTBEAT
    assert mine.describe_loss("").startswith("process 0 died or lost contact (its coordinator is")
