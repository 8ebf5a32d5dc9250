"""Several processes: who is who, what a start tells, and that they end together."""

import socket
import time

import pytest

from score_jax import distributed, distributed_connect
from score_jax.distributed_cluster import Cluster
from score_jax.distributed_connect import connect, connected_to, probe
from score_jax.distributed_peers import Peers
from score_jax.types import UserError
from tests.pods import HEARTBEAT, Pod, free_port


def test_a_probe_tells_why_a_port_is_not_reached():
    port = free_port()
    assert "nothing listens at 127.0.0.1" in probe("127.0.0.1", port)
    assert probe("no-such-host.invalid", port).startswith("no host is called no-such-host")
    with socket.create_server(("127.0.0.1", port)):
        assert probe("127.0.0.1", port) is None


def test_an_unknown_coordinator_is_for_the_user_to_mend():
    with pytest.raises(UserError, match="no host is called no-such-host.invalid; mend the name"):
        connect(Cluster("no-such-host.invalid:1", 2, 1, "flags"), 0.1, HEARTBEAT)


def test_a_port_that_another_program_has_is_refused(monkeypatch):
    monkeypatch.setattr(distributed_connect, "PORT_SECONDS", 0.0)
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of this host is taken by another"):
            connect(Cluster(f"127.0.0.1:{port}", 2, 0, "flags"), 5, HEARTBEAT)


def test_who_came_is_read_from_the_open_connections(tmp_path):
    (tmp_path / "tcp").write_text("head\n 0: 0100007F:1F90 0200000A:D431 01 x\n"
                                  " 1: 0100007F:1F90 0300000A:D431 06 x\n"
                                  " 2: 0100007F:1F91 0400000A:D431 01 x\n")  # fmt: skip
    (tmp_path / "tcp6").write_text(
        "head\n 0: 0000000000000000FFFF00000100007F:1F90 "
        "0000000000000000FFFF00000500000A:D431 01 x\n"
    )
    assert connected_to(0x1F90, tmp_path) == ["10.0.0.2", "10.0.0.5"]


def test_in_one_process_every_question_has_its_answer():
    assert distributed.is_primary() and not distributed.is_several()
    assert distributed.from_primary({"a": [1, "b"]}) == {"a": [1, "b"]}
    assert distributed.from_all("a") == ["a"]
    distributed.barrier("anything")
    assert distributed.leave(2, "why") == 2
    assert distributed.peer_failure(ValueError("Gloo all-reduce failed")) is None
    with distributed.start(num_processes=1):
        assert not distributed.is_several()


def test_errors_of_another_process_are_told_from_our_own(monkeypatch):
    cluster = Cluster(f"127.0.0.1:{free_port()}", 3, 0, "flags")
    monkeypatch.setattr(distributed, "_peers", Peers(cluster, HEARTBEAT))
    line = distributed.peer_failure(
        ValueError("UNKNOWN: Gloo AllGather failed: [a.cc:5] Connection closed by peer [b]:1")
    )
    assert line == (
        "process 0 of 3: another process died or lost contact (connection closed by peer); the "
        "same command goes on from the last checkpoint"
    )
    assert distributed.peer_failure(ValueError("shapes (3,) and (4,) do not fit")) is None
    assert distributed.peer_failure(OSError("Gloo all-reduce failed")) is None


# Processes that really are several.


def test_they_agree_and_end_together():
    with Pod("agree") as pod:
        ended = pod.end()
    for end in ended.values():
        assert end.code == 0, end
        assert end.out.splitlines() == [
            "primary 0", "all ['name 0', 'name 1']", "many True True", "by devices y1", "done",
        ]  # fmt: skip
    assert "process 1 of 2: connected after" in ended[1].errors
    assert "1 of 2 devices here" in ended[1].errors


@pytest.mark.slow
def test_rows_lie_where_they_belong_in_any_order_of_the_devices():
    with Pod("rows", JAX_NUM_CPU_DEVICES="2") as pod:
        ended = pod.end()
    for end in ended.values():
        assert end.code == 0, end
        assert end.out.splitlines() == ["rows (8, 3) True 2"] * 6 + ["done"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("task", ["idle", "forever"])
def test_a_killed_process_ends_the_other(task, victim):
    with Pod(task) as pod:
        pod.wait_for("running" if task == "idle" else "step")
        pod.processes[victim].kill()
        end = pod.end()[1 - victim]
    lines = end.errors.splitlines()[2:]
    assert end.code == distributed.RESTART and end.seconds < HEARTBEAT + 4, end
    assert len(lines) == 1, end.errors
    assert f"process {1 - victim} of 2: process {victim} died or lost contact" in lines[0]
    assert "the same command goes on from the last checkpoint" in lines[0]


@pytest.mark.slow
def test_of_several_the_lost_one_is_named():
    with Pod("idle", 4) as pod:
        pod.wait_for("running")
        time.sleep(HEARTBEAT / 2)  # Each has heard of the others.
        pod.processes[2].kill()
        ended = pod.end()
    for index in (0, 1, 3):
        end = ended[index]
        assert end.code == distributed.RESTART and end.seconds < HEARTBEAT + 8, end
        assert f"process {index} of 4: process 2 died or lost contact" in end.errors


@pytest.mark.slow
@pytest.mark.parametrize("fails", [0, 1])
def test_what_the_user_must_mend_ends_all_with_2(fails):
    with Pod("refuse", FAILS=str(fails)) as pod:
        ended = pod.end()
    assert [end.code for end in ended.values()] == [2, 2]
    assert "score-jax task: the disk of this host is full" in ended[fails].errors
    other = ended[1 - fails].errors.splitlines()[-1]
    assert other == (
        f"process {1 - fails} of 2: process {fails} on {socket.gethostname()} ended: the disk of "
        "this host is full; make room"
    )


@pytest.mark.slow
def test_a_bug_in_one_process_ends_the_other_for_a_restart():
    with Pod("crash", FAILS="1") as pod:
        ended = pod.end()
    assert (ended[0].code, ended[1].code) == (distributed.RESTART, 1)
    assert "ended: ValueError: a bug; the same command goes on" in ended[0].errors
    assert "Traceback" in ended[1].errors and "Traceback" not in ended[0].errors


@pytest.mark.slow
def test_a_barrier_names_who_does_not_come():
    with Pod("late") as pod:
        ended = pod.end()
    assert [end.code for end in ended.values()] == [distributed.RESTART] * 2
    assert "process 0 of 2: process 1 did not come to 'late' (2 s)" in ended[0].errors
    assert "took this one for lost (it did not come to 'late' for 2 s)" in ended[1].errors


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_a_process_whose_others_do_not_come_gives_up(index):
    with Pod("agree", 2, "--init_timeout=4", only=[index]) as pod:
        (end,) = pod.end().values()
    lines = end.errors.splitlines()
    assert end.code == distributed.RESTART and len(lines) == 2, end
    assert lines[0].startswith(f"process {index} of 2 on {socket.gethostname()} (pid ")
    why = ["1 of 2 have come, from 127.0.0.1", "nothing listens at 127.0.0.1"][index]
    assert f"gave up after 4 s (--init_timeout): {why}" in lines[1]
    assert "start all 2 processes with the same --coordinator" in lines[1]
