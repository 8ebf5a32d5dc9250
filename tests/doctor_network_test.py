"""The doctor on ports, the coordinator and the meeting of several processes, over loopback."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from score_jax import doctor, doctor_coordinator, doctor_meeting, doctor_ports
from score_jax.doctor_finding import Machine
from tests.doctor_machines import lines
from tests.pods import free_port


def place(port, **fields):
    fields = dict(environ={}, num_processes=2, process_id=1, patience=1) | fields
    return Machine(coordinator=f"127.0.0.1:{port}", **fields)


def look(port, **fields):
    return lines(doctor_coordinator.coordinator, place(port, **fields))


@contextlib.contextmanager
def serving(answer):
    """A server on loopback that answers every visitor with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (dict(coordinator="node001"), "'node001' is no HOST:PORT; write --coordinator=HOST:PORT"),
        (dict(coordinator="node001:99999"), "'node001:99999' is no HOST:PORT"),
        (dict(coordinator="no-such-host.invalid:1"), "the name no-such-host.invalid is not known"),
        (dict(coordinator="127.0.0.1:1", process_id=2), "--process_id=2 of --num_processes=2"),
        (
            dict(coordinator="localhost:1", environ={"SLURM_STEP_NUM_NODES": "2"}),
            "localhost is each machine itself, and the run has 2 of them; give the name",
        ),
        (
            dict(coordinator="192.0.2.1:1", process_id=0),
            "192.0.2.1 (192.0.2.1) is not this machine, where process 0 runs; start process 0",
        ),
    ],
)
def test_a_coordinator_that_cannot_be_is_told(given, text):
    machine = Machine(**dict(environ={}, num_processes=2, process_id=1, patience=1) | given)
    (line,) = lines(doctor_coordinator.coordinator, machine)
    assert line.startswith(f"!!  coordinator: {text}")


def test_the_cluster_tells_the_place_of_a_process(tmp_path):
    step = dict(SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="1", SLURM_STEP_NODELIST="n[3-4]")
    machine = Machine(environ={**step, "SLURM_JOB_ID": "7"}, root=tmp_path)
    machine, line = doctor.placed(machine)
    assert str(line).startswith("ok  run: process 1 of 2 at n3:")
    assert (machine.num_processes, machine.process_id) == (2, 1)
    machine = Machine(environ={}, root=tmp_path, num_processes=2)
    assert str(doctor.placed(machine)[1]).startswith("!!  run: --num_processes=2 needs")


def test_addresses_of_both_kinds_are_read():
    assert doctor_coordinator.split("10.0.0.2:8476") == ("10.0.0.2", 8476)
    assert doctor_coordinator.split("[fd00::1]:8476") == ("fd00::1", 8476)
    assert doctor_coordinator.split("fd00::1:8476") is None


def test_a_free_port_and_who_has_a_taken_one():
    port = free_port()
    assert look(port, process_id=0, num_processes=1) == [
        f"ok  coordinator: port {port} is free here"
    ]
    with socket.create_server(("127.0.0.1", port)):
        (line,) = look(port, process_id=0)
    assert line.startswith(f"!!  coordinator: port {port} is taken by process {os.getpid()} (")
    assert "end it, or take another port" in line


def test_nobody_listening_is_not_a_firewall():
    (line,) = look(port := free_port())
    assert f"127.0.0.1:{port} is there, but nobody listened on the port within 1 s; start" in line
    # A full queue of a server drops packets, as a firewall does.
    with socket.socket() as server, contextlib.ExitStack() as clients:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        (line,) = look(server.getsockname()[1])
    assert "does not answer: packets are dropped on the way; open TCP port" in line


def test_something_else_on_the_port_is_told():
    with serving(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        (line,) = look(port)
    assert line.startswith(f"--  coordinator: 127.0.0.1:{port} answers after ")
    assert "but is no doctor" in line


def meet(tmp_path, ids, count=3, patience=20, **differing):
    """What the doctors of some processes say that meet on one port."""
    port, said = free_port(), {}

    def one(index):
        fields = dict(workdir=str(tmp_path), num_processes=count, process_id=index)
        fields["patience"] = patience
        said[index] = look(port, **fields | differing.get(f"of_{index}", {}))

    threads = [threading.Thread(target=one, args=(index,)) for index in ids]
    for thread in threads:
        thread.start()
        time.sleep(0.1)  # Who comes before process 0 is refused at first.
    for thread in threads:
        thread.join()
    return port, said


def test_the_doctors_of_all_processes_meet(tmp_path):
    (tmp_path / "mine").write_text("x")
    port, said = meet(tmp_path, (2, 1, 0))
    host = socket.gethostname()
    assert said[0] == [
        f"ok  processes: all 3 met on port {port}: {host}",
        f"ok  shared folder: {tmp_path} is the same for all",
    ]
    for index in (1, 2):
        text = "\n".join(said[index])
        assert f"ok  coordinator: 127.0.0.1:{port} is process 0 on {host}, reached in" in text
        assert "ok  clock: 0." in text
        assert "ok  same versions: as on process 0" in text
        assert f"ok  shared folder: {tmp_path} is the one of process 0" in text
        assert "!!" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_the_doctors_of_two_shells_meet_and_do_not_join_a_run(tmp_path):
    flags = [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2", f"--workdir={tmp_path}"]
    words = [sys.executable, "-m", "score_jax", "doctor", "ports", *flags]
    doctors = [
        subprocess.Popen(
            [*words, f"--process_id={index}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]  # fmt: skip
    said = [each.communicate(timeout=100)[0] for each in doctors]
    assert [each.returncode for each in doctors] == [0, 0], said
    assert "ok  processes: all 2 met on port " in said[0]
    assert "is process 0 on " in said[1]
    assert not any("waiting for the coordinator" in text for text in said)


def test_a_folder_that_is_not_shared_is_told_by_both_sides(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_meeting, "sees", lambda file, seconds: False)
    _, said = meet(tmp_path, (0, 1), 2)
    assert f"!!  shared folder: process 1 has another {tmp_path}; give a --workdir" in said[0][1]
    assert f"!!  shared folder: {tmp_path} is not the one of process 0" in said[1][-1]


def test_who_does_not_come_or_counts_otherwise_is_told(tmp_path):
    port, said = meet(
        tmp_path, (0, 1), patience=3, of_1=dict(num_processes=2, recipe="configs/digits_score.py")
    )
    missing, other = said[0]
    assert f"!!  processes: no word on port {port} from process 2 of 3 in 3 s; start" in missing
    assert f"a firewall must let TCP port {port} in" in missing
    assert "!!  processes: process 1 counts 2 processes, process 0 counts 3" in other
    assert any("!!  same recipe: process 0 was given another --config" in line for line in said[1])


def test_who_does_not_belong_is_told():
    with doctor_meeting.open_port(0) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\n\r\n\n")
        others = []
        for pid in (1, 2):
            said = doctor_meeting.introduction(1, 3) | {"pid": pid}
            others.append(socket.create_connection(("127.0.0.1", port)))
            others[-1].sendall(json.dumps(said).encode() + b"\n")
            others[-1].shutdown(socket.SHUT_WR)
        answer = doctor_meeting.introduction(0, 3)
        meeting = doctor_meeting.receive(server, answer, 2, seconds=0.5)
    for other in others:
        other.close()
    host = socket.gethostname()
    assert meeting.strangers == ["::ffff:127.0.0.1", f"{host}, a second process 1"]


def test_a_process_0_of_another_kind_is_told(tmp_path):
    facts = dict(
        versions={"jax": "0.1.0"}, recipe="", overrides=[], file=str(tmp_path / "not-here")
    )
    said = doctor_meeting.introduction(0, 2, **facts) | {"time": time.time() + 100, "host": "far"}
    with serving(json.dumps(said).encode() + b"\n") as port:
        reached, clock, versions, folder = look(port)
    assert "is process 0 on far" in reached
    assert re.match(r"!!  clock: (99|100)\.\d s behind process 0; let chrony", clock)
    assert "!!  same versions: not those of process 0: " in versions
    assert "(0.1.0 there)" in versions
    assert f"!!  shared folder: {tmp_path} is not the one of process 0" in folder


@pytest.mark.parametrize(
    ("environ", "mark"),
    [
        ({}, "ok"),
        ({"https_proxy": "http://proxy:1"}, "!!"),
        ({"http_proxy": "http://proxy:1", "no_proxy": "10.0.0.9"}, "!!"),
        # gRPC reads neither these nor the exceptions in upper case.
        ({"HTTP_PROXY": "http://proxy:1", "all_proxy": "http://proxy:1"}, "ok"),
        ({"grpc_proxy": "http://proxy:1", "NO_PROXY": "127.0.0.1"}, "!!"),
        ({"grpc_proxy": "", "https_proxy": "http://proxy:1"}, "ok"),
        ({"https_proxy": "http://p:1", "no_grpc_proxy": "a", "no_proxy": "127.0.0.1"}, "!!"),
        ({"https_proxy": "http://proxy:1", "no_proxy": "localhost,127.0.0.1"}, "ok"),
        ({"https_proxy": "http://proxy:1", "no_grpc_proxy": "127.0.0.1"}, "ok"),
    ],
)
def test_a_proxy_on_the_way_is_told(environ, mark):
    (line,) = lines(doctor_ports.proxies, place(1, environ=environ))
    assert line.startswith(f"{mark}  proxies: ")
    if mark == "!!":
        assert "jax.distributed may wait for ever; unset " in line
    assert "ok" in lines(doctor_ports.proxies, Machine(environ=environ))[0]


@pytest.mark.parametrize(
    ("value", "mark"), [("eth", "ok"), ("=eth0", "ok"), ("=eth", "!!"), ("ib0", "!!"), ("^lo", "")]
)
def test_an_interface_that_is_not_there_is_told(tmp_path, value, mark):
    (tmp_path / "sys/class/net/eth0").mkdir(parents=True)
    machine = Machine(environ={"NCCL_SOCKET_IFNAME": value}, root=tmp_path)
    found = lines(doctor_ports.interfaces, machine)
    assert [line[:2] for line in found] == ([mark] if mark else [])


def test_a_name_without_an_address_is_told(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    (line,) = lines(doctor_ports.own_name, place(1))
    assert line.startswith("!!  host name: no-such-host.invalid has no address")
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert lines(doctor_ports.own_name, place(1))[0].startswith("ok  host name: localhost is ")
    machine = Machine(environ={}, coordinator="far:1", num_processes=2)
    (line,) = lines(doctor_ports.own_name, machine)
    assert "processes of other machines cannot reach this one; give localhost its address" in line
