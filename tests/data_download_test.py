"""Downloads against a server of our own that throttles, cuts, redirects, lies and goes away."""

import hashlib
import pathlib
import shutil
import socket
import threading

import pytest

from score_jax import cli, prepare
from score_jax.data import download, sources, transfers
from score_jax.data.download import URLS, File
from score_jax.types import UserError
from tests import official_files as official
from tests.file_server import CONTENT, SHA256, SIZE, Handler, Server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv(download.OFFLINE, raising=False)
    for key in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(transfers, "TIMEOUT", 0.8)
    monkeypatch.setattr(transfers, "PAUSE", 0.0)
    server = Server(("127.0.0.1", 0), Handler)
    server.requests, server.content = [], CONTENT
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(server, monkeypatch, tmp_path):
    """Fetches one file `f.bin` from the given ways; gives its content, and the lines told."""

    def fetch(*ways, sha256=SHA256, size=SIZE, mirror=""):
        urls = tuple(f"{server.address}/{way}/f.bin" for way in ways)
        monkeypatch.setitem(URLS, "cifar10", (File("f.bin", urls, sha256, size),))
        fetch.lines = []
        paths = download.fetch("cifar10", tmp_path, fetch.lines.append, mirror)
        fetch.paths = paths
        assert paths == [str(tmp_path / "downloads" / "cifar10" / "f.bin")]
        left = sorted(p.name for p in (tmp_path / "downloads" / "cifar10").iterdir())
        assert left == [".lock", "f.bin"]
        return (tmp_path / "downloads" / "cifar10" / "f.bin").read_bytes()

    return fetch


def refusal(fetch, *ways, **options) -> str:
    with pytest.raises(UserError) as caught:
        fetch(*ways, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def part(tmp_path):
    folder = tmp_path / "downloads" / "cifar10"
    folder.mkdir(parents=True)
    return folder / "f.bin.part"


@pytest.mark.parametrize("way", ["good", "cut", "busy", "norange", "moved"])
def test_a_file_comes_whole(way, fetch):
    assert fetch(way) == CONTENT
    assert "has the known sha256" in fetch.lines[-1]


def test_a_second_time_nothing_is_asked_for(fetch, server):
    fetch("good")
    asked = len(server.requests)
    assert fetch("good") == CONTENT and len(server.requests) == asked
    assert "there already and has the known sha256" in fetch.lines[0]


def test_a_cut_connection_goes_on_where_it_was(fetch, server):
    assert fetch("cut") == CONTENT
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]


def test_what_arrived_earlier_is_continued_from_any_address(fetch, server, part):
    part.write_bytes(CONTENT[:123_456])
    assert fetch("absent", "good") == CONTENT
    assert server.requests[-1][1]["Range"] == "bytes=123456-"


@pytest.mark.parametrize("before", [bytes(1000), CONTENT[:-1] + b"?", CONTENT + b"too long"])
def test_a_damaged_part_is_fetched_again(before, fetch, part):
    part.write_bytes(before)
    assert fetch("good") == CONTENT


def test_a_whole_part_is_only_checked(fetch, server, part):
    part.write_bytes(CONTENT)
    assert fetch("good") == CONTENT and not server.requests


@pytest.mark.parametrize("way", ["cutonce", "changes"])
def test_without_a_checksum_a_part_is_continued_only_where_the_host_vouches(way, fetch, server):
    assert fetch(way, sha256="", size=0) == CONTENT
    assert server.requests[1][1]["If-Range"] in ('"1"', '"True"')
    assert f"no known checksum, the content's is sha256 {SHA256}" in fetch.lines[-1]


def test_a_part_of_unknown_origin_is_not_continued(fetch, server, part):
    part.write_bytes(CONTENT[:1000])
    assert fetch("good", sha256="", size=0) == CONTENT
    assert "Range" not in server.requests[0][1]


def test_the_checksum_that_a_host_names_is_compared(fetch):
    assert fetch("moved", sha256="", size=0) == CONTENT
    assert "has the sha256 that its host names" in fetch.lines[-1]


def test_a_host_that_sends_other_than_it_names_is_refused(fetch):
    assert f"where {SHA256[:12]} is known" in refusal(fetch, "movedwrong", sha256="", size=0)


@pytest.mark.parametrize(
    "way, part_of_message",
    [
        ("wrong", f"where {SHA256[:12]} is known"),
        ("longer", "offers 300004 bytes where the file has 300000"),
        ("html", "a web page instead of the file"),
        ("absent", "answers HTTP 404"),
        ("silent", "nothing came for 0.8 s"),
        ("file", "redirects to file:///etc/passwd, not followed"),
        ("ftp", "redirects to ftp://localhost/f.bin, which is not followed"),
        ("circle", "redirects to"),
    ],
)
def test_what_does_not_work_is_told_and_the_next_address_tried(way, part_of_message, fetch):
    message = refusal(fetch, way)
    assert part_of_message in message and "--source=/path/to/f.bin --data_dir=" in message
    assert fetch(way, "good") == CONTENT


def test_without_a_checksum_the_length_must_be_told(fetch):
    assert fetch("endless") == CONTENT
    (pathlib.Path(fetch.paths[0])).unlink()
    assert "does not say how long" in refusal(fetch, "endless", sha256="", size=0)


def test_without_a_checksum_an_npz_must_look_like_one(server, monkeypatch, tmp_path):
    file = File("f.npz", (f"{server.address}/good/f.npz",))
    monkeypatch.setitem(URLS, "cifar10_ddpm", (file,))
    with pytest.raises(UserError, match="sends something else than an npz file"):
        download.fetch("cifar10_ddpm", tmp_path, lambda line: None)
    assert [p.name for p in (tmp_path / "downloads" / "cifar10_ddpm").iterdir()] == [".lock"]
    server.content = b"PK" + CONTENT
    (path,) = download.fetch("cifar10_ddpm", tmp_path, lambda line: None)
    assert pathlib.Path(path).read_bytes() == server.content


def test_a_slow_address_is_left_for_another_and_used_when_there_is_none(fetch, monkeypatch):
    monkeypatch.setattr(transfers, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(transfers, "SLOW_RATE", 1e9)
    assert fetch("slow", "good") == CONTENT
    assert any("kB/s; trying" in line for line in fetch.lines)


def test_a_slow_address_is_better_than_none(fetch, monkeypatch):
    monkeypatch.setattr(transfers, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(transfers, "SLOW_RATE", 1e9)
    assert fetch("slow", "absent") == CONTENT


def test_a_mirror_is_the_only_address_asked(fetch, server):
    assert fetch("absent", mirror=f"{server.address}/good/") == CONTENT
    assert [path for path, _ in server.requests] == ["/good/f.bin"]


@pytest.mark.parametrize("mirror", ["file:///tmp", "/tmp", "ftp://host/"])
def test_a_mirror_is_an_address_of_the_web(mirror, fetch):
    assert f"--mirror={mirror} is not an address" in refusal(fetch, "good", mirror=mirror)


def test_without_a_network_the_remedy_is_told(fetch, monkeypatch, server, part):
    def unknown(*arguments, **options):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    part.write_bytes(CONTENT[:1000])
    message = refusal(fetch, "good", "slow")
    host = server.address.removeprefix("http://")
    assert f"({host}, {host}: name not known here, is there a network?)" in message
    assert f"from {server.address}/good/f.bin" in message and "kept and continued" in message
    assert "run: score-jax data prepare cifar10 --source=/path/to/f.bin" in message
    assert part.exists()


def test_an_address_where_nothing_listens(fetch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{free.getsockname()[1]}"
        assert "refuses the connection" in refusal(fetch, "good", mirror=mirror)


def test_offline_nothing_is_asked_and_files_there_are_used(fetch, monkeypatch, server, part):
    monkeypatch.setenv(download.OFFLINE, "1")
    assert f"{download.OFFLINE} is set" in refusal(fetch, "good")
    (part.parent.parent / "f.bin").write_bytes(CONTENT)
    server.requests.clear()
    paths = download.fetch("cifar10", part.parents[2], lambda line: None)
    assert paths == [str(part.parents[1] / "f.bin")] and not server.requests


def test_a_file_that_is_there_with_other_content_is_not_taken(fetch, part):
    part.with_name("f.bin").write_bytes(b"other")
    message = refusal(fetch, "good")
    assert f"where the official file has {SHA256[:12]}; move it away" in message


def test_too_little_room_is_told_before_anything_is_fetched(fetch, monkeypatch, part):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(transfers.shutil, "disk_usage", lambda path: usage)
    assert "0 MiB free where f.bin needs 0 more" in refusal(fetch, "good")
    assert not part.exists()


def test_several_files_are_put_where_they_are_found(server, monkeypatch, tmp_path):
    files = [File(n, (f"{server.address}/absent/{n}",), "0" * 64) for n in ("a.gz", "b.gz")]
    monkeypatch.setitem(URLS, "mnist", tuple(files))
    with pytest.raises(UserError, match=r"put it into .*/downloads/mnist and run: score-jax data"):
        download.fetch("mnist", tmp_path, lambda line: None)


def test_large_downloads_are_announced(tmp_path):
    lines = []
    (tmp_path / "downloads" / "cifar10_edm_50m").mkdir(parents=True)
    with pytest.raises(UserError, match="SCORE_JAX_OFFLINE is set"):
        download.fetch("cifar10_edm_50m", tmp_path, lines.append)
    assert "cifar10_edm_50m: 4 of 4 files to come, 35.9 GiB and more; in " in lines[0]
    (tmp_path / "downloads" / "cifar10_edm_50m" / "50m_part2.npz").touch()
    with pytest.raises(UserError, match="SCORE_JAX_OFFLINE is set"):
        download.fetch("cifar10_edm_50m", tmp_path, lines.append)
    assert "3 of 4 files" in lines[1]


def test_what_has_no_address_is_prepared_from_the_users_copy(tmp_path):
    with pytest.raises(UserError) as caught:
        download.fetch("cifar10_ti500k", tmp_path, print)
    assert "from https://github.com/yaircarmon/semisup-adv" in str(caught.value)
    assert "data prepare cifar10_ti500k --source=/path" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mirror", [False, True])
def test_a_dataset_is_prepared_from_its_addresses(mirror, server, monkeypatch, tmp_path, capsys):
    official.shrink(monkeypatch, "cifar10", train=50, test=10)
    files = official.python_files(official.random_cifar10())
    path = official.write_tar(tmp_path / "p.tar.gz", "cifar-10-batches-py", files)
    server.content = path.read_bytes()
    sha256 = hashlib.sha256(server.content).hexdigest()
    way = "absent" if mirror else "cut"
    urls = (f"{server.address}/{way}/p.tar.gz",)
    monkeypatch.setitem(URLS, "cifar10", (File("p.tar.gz", urls, sha256, len(server.content)),))
    given = f"{server.address}/good" if mirror else ""
    folder = prepare.prepare("cifar10", data_dir=str(tmp_path / "data"), mirror=given)
    assert sources.find("cifar10", str(tmp_path / "data")) == pathlib.Path(folder)
    assert "has the known sha256" in capsys.readouterr().err
    kept = tmp_path / "data" / "downloads" / "cifar10" / "p.tar.gz"
    assert kept.read_bytes() == server.content
    shutil.rmtree(pathlib.Path(folder).parent)
    monkeypatch.setenv(download.OFFLINE, "1")
    assert prepare.prepare("cifar10", data_dir=str(tmp_path / "data")) == folder


def test_what_cannot_be_fetched_prepares_nothing(fetch, tmp_path):
    refusal(fetch, "absent")
    with pytest.raises(UserError, match="cifar10: f.bin was not downloaded"):
        prepare.prepare("cifar10", data_dir=str(tmp_path))
    assert sources.find("cifar10", str(tmp_path)) is None


def test_the_command_hands_the_mirror_on(server, tmp_path, capsys):
    words = ["data", "prepare", "cifar10", f"--data_dir={tmp_path}"]
    assert cli.main([*words, f"--mirror={server.address}/absent"]) == 2
    message = capsys.readouterr().err
    host = server.address.removeprefix("http://")
    assert f"was not downloaded ({host}: answers HTTP 404); fetch it from https://www.cs" in message
    assert [path for path, _ in server.requests] == ["/absent/cifar-10-python.tar.gz"]


def test_a_mirror_beside_the_users_own_files_is_refused(tmp_path):
    for name, files in (("cifar10", ("x.npz",)), ("digits", ())):
        with pytest.raises(UserError, match="--mirror=http://a is for what is downloaded; leave"):
            prepare.prepare(name, files, str(tmp_path), mirror="http://a")
