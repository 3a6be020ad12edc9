"""A run's folder: written wholly or not at all, private, and locked."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from securefd import folder
from securefd.errors import RunError, RunLocked


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch, call: str) -> None:
    path = tmp_path / "result.json"
    folder.write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(RunError, match=r"result\.json can't be written: No space left on device; free space"):
        folder.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_write_that_is_cut_short_leaves_what_was_there(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "result.json"
    folder.write_bytes(path, b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    folder.write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["result.json"]


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch) -> None:
    done: list[str] = []
    real = os.replace
    monkeypatch.setattr(os, "fsync", lambda _: done.append("fsync"))
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("replace"), real(*paths)))
    folder.write_bytes(tmp_path / "a", b"")
    assert done == ["fsync", "replace", "fsync"]


def test_files_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        folder.make(tmp_path / "run" / "clients" / "0")
        folder.write_bytes(tmp_path / "run" / "salt", b"secret")
        with folder.locked(tmp_path / "run"):
            assert mode(tmp_path / "run" / folder.LOCK) == 0o600
    finally:
        os.umask(old)
    assert mode(tmp_path / "run" / "clients" / "0") == 0o700
    assert mode(tmp_path / "run" / "salt") == 0o600


def test_a_folder_that_was_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o755)
    folder.make(tmp_path / "run")
    assert mode(tmp_path / "run") == 0o700


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"folder .*/file/run can't be made: Not a directory; choose another"):
        folder.make(tmp_path / "file" / "run")


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "b": np.arange(6, dtype=np.int64).reshape(2, 3),
        "a": np.array([[1.5, np.nan]], dtype=np.float32).T,
        "none": np.zeros((0, 3)),
        "count": np.array(7),
        "levels": np.array([-1, 255], dtype=np.int16),
    }
    folder.write_arrays(tmp_path / "x.safetensors", arrays)
    found = folder.read_arrays(tmp_path / "x.safetensors")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)
    folder.write_arrays(tmp_path / "y.safetensors", dict(reversed(arrays.items())))
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


def test_json_without_nan(tmp_path: Path) -> None:
    folder.write_json(tmp_path / "a.json", {"b": 1, "a": [0.1]})
    assert folder.read_json(tmp_path / "a.json") == {"a": [0.1], "b": 1}
    with pytest.raises(ValueError, match="nan"):
        folder.write_json(tmp_path / "a.json", {"a": float("nan")})
    assert folder.read_json(tmp_path / "a.json") == {"a": [0.1], "b": 1}


@pytest.mark.parametrize("content", [b"{", b"\xff", b"", b'{"a": 1}\n{'])
@pytest.mark.parametrize("read", [folder.read_json, folder.read_lines, folder.read_arrays])
def test_what_a_run_did_not_write(tmp_path: Path, read, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    if read is folder.read_lines and not content:
        assert read(path) == []
        return
    with pytest.raises(RunError, match=r"file isn't the file that a run writes .*; restore it"):
        read(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing can't be read: No such file or directory; is this"):
        folder.read_bytes(tmp_path / "nothing")


def test_two_at_once_in_one_process(tmp_path: Path) -> None:
    with (
        folder.locked(tmp_path),
        pytest.raises(RunLocked, match="is in use by another process; wait for it, or choose another"),
        folder.locked(tmp_path),
    ):
        pass
    with folder.locked(tmp_path):
        pass


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    """Held by another process, which is then killed."""
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    code += "; print('held', flush=True); time.sleep(600)"
    command = [sys.executable, "-c", code, str(tmp_path / folder.LOCK)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunLocked), folder.locked(tmp_path):
            pass
    finally:
        other.kill()
        other.communicate()
    with folder.locked(tmp_path):
        pass


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), folder.locked(tmp_path):
        raise KeyboardInterrupt
    with folder.locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / folder.LOCK).mkdir()
    refused = pytest.raises(RunError, match="can't be locked: Is a directory; choose another place")
    with refused, folder.locked(tmp_path):
        pass
