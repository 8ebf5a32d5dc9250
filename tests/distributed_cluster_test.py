"""Which process of how many: from flags, variables, SLURM, and what a TPU says of itself."""

import pytest

from score_jax.distributed_cluster import Cluster, find, first_host
from score_jax.types import UserError

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
