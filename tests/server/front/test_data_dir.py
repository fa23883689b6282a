"""The folder of one front."""

from __future__ import annotations

import os
import stat

import pytest

from vinf_server.front.data_dir import DataDir, DataDirError

pytestmark = pytest.mark.fast


def test_second_owner_is_refused_until_the_first_leaves(tmp_path):
    first = DataDir(tmp_path)
    with pytest.raises(DataDirError, match=rf"is in use by another server \(pid {os.getpid()}\)"):
        DataDir(tmp_path)
    first.close()
    DataDir(tmp_path).close()


def test_what_was_private_to_an_earlier_run_is_cleared_and_what_it_stored_stays(tmp_path):
    DataDir(tmp_path).close()
    (tmp_path / "vinf.db").touch()
    (tmp_path / "spool" / "old").mkdir()
    (tmp_path / "checkpoints" / "old").mkdir()
    (tmp_path / "run-01234567").mkdir()
    (tmp_path / "kept").touch()
    data_dir = DataDir(tmp_path)
    assert (data_dir.spool / "old").is_dir()
    assert (data_dir.checkpoints / "old").is_dir()
    assert [path.name for path in tmp_path.glob("run-*")] == [data_dir.private.name]
    assert (tmp_path / "kept").exists()
    data_dir.close()
    assert not list(tmp_path.glob("run-*"))


@pytest.mark.parametrize("length", [10, 150])
def test_socket_is_private_and_its_path_short(tmp_path, length):
    data_dir = DataDir(tmp_path / ("x" * length))
    assert stat.S_IMODE(data_dir.private.stat().st_mode) == 0o700
    assert len(str(data_dir.socket)) < 107
    data_dir.close()
    assert not data_dir.private.exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataDirError, match="cannot be used: "):
        DataDir(tmp_path / "file" / "data")


def test_old_logs_are_forgotten(tmp_path):
    data_dir = DataDir(tmp_path)
    for epoch in range(1, 16):
        os.utime(data_dir.new_log_folder(epoch), (epoch, epoch))
    assert len(list(data_dir.logs.iterdir())) <= 11
    data_dir.close()


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    for name in ("checkpoints/mymodel/weights.pt", "run-7/notes.txt", "spool/keep/x", "logs/tb/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataDirError, match=r"no data directory of vinf .*'run-7'.*choose a new or an empty folder"):
        DataDir(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_frames_whose_database_is_gone_are_left_alone(tmp_path):
    DataDir(tmp_path).close()
    kept = tmp_path / "spool" / "0123456789ab-0123456789abcdef0123"
    kept.mkdir()
    with pytest.raises(DataDirError, match=r"vinf\.db that names them is gone"):
        DataDir(tmp_path)
    assert kept.is_dir()


def test_only_what_a_server_made_is_cleared_away(tmp_path):
    DataDir(tmp_path).close()
    (tmp_path / "vinf.db").touch()
    for name in ("run-abc_1234", "run-7", "logs/mine"):
        (tmp_path / name).mkdir()
    data_dir = DataDir(tmp_path)
    for epoch in range(12):
        data_dir.new_log_folder(epoch)
    data_dir.close()
    assert not (tmp_path / "run-abc_1234").exists()
    assert (tmp_path / "run-7").is_dir()
    assert (tmp_path / "logs" / "mine").is_dir()
    assert len(list((tmp_path / "logs").iterdir())) == 11
