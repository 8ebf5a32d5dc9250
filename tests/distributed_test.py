"""Several processes: who is who, what a start tells, and that they end together."""

import socket
import time

import pytest

from score_jax import distributed, distributed_connect
from score_jax.distributed_cluster import Cluster, find, first_host
from score_jax.distributed_connect import connect, connected_to, probe
from score_jax.distributed_peers import Peers
from score_jax.types import UserError
from tests.pods import HEARTBEAT, Pod, free_port

SLURM = {
    "SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "tpu[012-014,020],login", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x4)",
}  # fmt: skip
JOBSET = {
    "TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "run-0-0.run,run-0-1.run",
    "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2",
    "MEGASCALE_COORDINATOR_ADDRESS": "run-0-0.run:8080",
}  # fmt: skip
METADATA = {
    "agent-worker-number": "3",
    "worker-network-endpoints": "a:1:10.0.0.7,b:2:10.0.0.8,c:3:10.0.0.9,d:4:10.0.0.10",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nZONE: 'eu'\n",
}


def found(environ=None, *, metadata=None, tpu=False, gpus=0, **flags) -> Cluster | None:
    """`find` on a machine that is described, not looked at."""
    return find(
        environ or {}, metadata=lambda key: (metadata or {}).get(key, ""), is_tpu=lambda _: tpu,
        gpus=lambda _: gpus, **flags,
    )  # fmt: skip


def place(cluster: Cluster) -> tuple:
    return cluster.coordinator, cluster.num_processes, cluster.process_id


def test_flags_name_the_place():
    cluster = found(coordinator="a:1", num_processes=4, process_id=0)
    assert place(cluster) == ("a:1", 4, 0)
    assert str(cluster) == "process 0 of 4"
    assert cluster.local_devices is None
    assert found(coordinator="[::1]:1", num_processes=4, process_id=2).address == ("::1", 1)


def test_variables_fill_what_flags_leave_out():
    environ = {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "0",
    }
    assert place(found(environ)) == ("a:1", 4, 0)
    assert place(found(environ, process_id=3, coordinator="b:2")) == ("b:2", 4, 3)
    # They are of this run, whatever the machine has beside them.
    assert place(found({**SLURM, **environ})) == ("a:1", 4, 0)


def test_alone_where_nothing_says_otherwise():
    assert found() is None
    assert found(num_processes=1) is None
    assert found(num_processes=1, process_id=0, coordinator="a:1") is None
    assert found(SLURM, kind="none") is None
    # What GKE and Cloud TPU leave behind, on a machine without a TPU.
    assert found(JOBSET) is None
    assert found({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, tpu=True) is None


def test_slurm_names_the_place():
    cluster = found(SLURM)
    assert place(cluster) == (f"tpu012:{61440 + 4711 % 4096}", 8, 5)
    other = found({**SLURM, "SLURM_STEP_ID": "1"})
    assert other.address[0] == "tpu012" and other.coordinator != cluster.coordinator
    assert found({**SLURM, "JAX_COORDINATOR_PORT": "99"}).coordinator == "tpu012:99"
    assert place(found(SLURM, kind="slurm", coordinator="b:2")) == ("b:2", 8, 5)


@pytest.mark.parametrize(
    "gone",
    [
        {"SLURM_STEP_NUM_TASKS"},  # The shell of an sbatch script, which has SLURM_PROCID=0.
        {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID", "SLURM_LOCALID"},  # By ssh.
    ],
)
def test_a_shell_in_an_allocation_is_alone(gone):
    shell = {name: value for name, value in SLURM.items() if name not in gone}
    shell["SLURM_NTASKS"] = "8"
    assert found(shell) is None
    with pytest.raises(UserError, match="not a task of srun; start it as `srun score-jax"):
        found(shell, kind="slurm")


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node7", "node7"),
        ("node7,node8", "node7"),
        ("node[007-009,12]", "node007"),
        ("node[007,9],other", "node007"),
        ("rack[1-2]n[03-09]-ib,login", "rack1n03-ib"),
    ],
)
def test_the_first_host_of_a_nodelist(nodes, host):
    assert first_host(nodes) == host


def test_tasks_of_a_node_share_its_gpus():
    assert found(SLURM, gpus=8).local_devices == (4, 5, 6, 7)
    assert found(SLURM, gpus=2).local_devices == (1,)
    # --gpus-per-task: each task sees its own alone.
    assert found(SLURM, gpus=1).local_devices is None
    assert found({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x8)"}, gpus=8).local_devices is None


def test_pods_of_a_jobset_name_the_place():
    cluster = found(JOBSET, tpu=True)
    assert place(cluster) == ("run-0-0.run:8482", 6, 5)
    one_slice = {name: JOBSET[name] for name in ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES")}
    assert place(found(one_slice, kind="gke")) == ("run-0-0.run:8482", 2, 1)
    with pytest.raises(UserError, match="--cluster=gke, but TPU_WORKER_HOSTNAMES"):
        found(kind="gke")


def test_a_tpu_vm_reads_its_metadata():
    assert place(found(metadata=METADATA, tpu=True)) == ("10.0.0.7:8482", 4, 3)
    slices = METADATA | {
        "tpu-env": "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
        "MEGASCALE_COORDINATOR_ADDRESS: '10.0.9.9:8080'\n"
    }
    assert place(found(metadata=slices, tpu=True)) == ("10.0.9.9:8482", 8, 7)
    alone = {"agent-worker-number": "0", "worker-network-endpoints": "10.0.0.7"}
    assert found(metadata=alone, tpu=True) is None
    assert found(metadata={}, tpu=True) is None
    with pytest.raises(UserError, match="it is no Cloud TPU VM; use --coordinator"):
        found(kind="tpu")


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({}, dict(coordinator="a:1", num_processes=2, process_id=2), "--process_id=2 is not below"),
        ({}, dict(num_processes=1, process_id=1), "--process_id=1 is not below --num_processes=1"),
        ({}, dict(coordinator="a:1"), "needs --num_processes .* and --process_id"),
        ({}, dict(num_processes=2, process_id=0), r"needs --coordinator \(or JAX_COORDINATOR_AD"),
        ({}, dict(coordinator="a", num_processes=2, process_id=0), "has no port; write HOST:PORT"),
        ({}, dict(coordinator="a:0", num_processes=2, process_id=0), "has no port"),
        ({}, dict(coordinator="a:1", kind="none"), "--cluster=none and --coordinator"),
        ({}, dict(kind="mpi"), "--cluster=mpi is not known; use one of auto, none"),
        ({"JAX_NUM_PROCESSES": "two"}, {}, "JAX_NUM_PROCESSES=two is not a count"),
        ({"JAX_PROCESS_ID": "1"}, {}, "--process_id=1 needs --coordinator .* and --num_processes"),
    ],
)
def test_contradictions_are_refused(environ, flags, message):
    with pytest.raises(UserError, match=message):
        found(environ, **flags)


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
    assert distributed.any_process(True) and not distributed.any_process(False)
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
            "any True False", "primary 0", "array [0, 0, 0]", "all ['name 0', 'name 1']", "done",
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
    assert "process 0 of 2: process 1 did not come to 'late 1' (2 s)" in ended[0].errors


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
