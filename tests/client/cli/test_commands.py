"""`vinf info`, `vinf list`, `vinf cancel`."""

import json

import pytest

from vinf.v1 import generation_pb2 as pb
from vinf.v1 import server_info_service_pb2 as info_pb
from vinf_client.cli import main

pytestmark = pytest.mark.fast


def test_info(server, capsys):
    assert main(["info", "--server", server.address]) == 0
    out = capsys.readouterr().out
    assert f"at {server.address}: ready" in out
    assert "model sprites (default)" in out
    assert "rank 0  cpu" in out
    assert "memory" not in out, "nothing is known"


@pytest.mark.parametrize(("most", "words"), [(2304, "2304 frames of 64 x 64"), (0, "no frame of 64 x 64")])
def test_info_says_what_fits(server, capsys, most, words):
    server.info.limits.rank_memory_budget_bytes = 8 << 30
    server.info.models[0].max_frame_count_at_default_size = most
    assert main(["info", "--server", server.address]) == 0
    assert f"  memory          8.0 GiB a rank, room for {words}\n" in capsys.readouterr().out
    assert main(["info", "--server", server.address, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["limits"]["rank_memory_budget_bytes"] == 8 << 30
    assert told["models"][0]["max_frame_count_at_default_size"] == most


def test_info_json(server, capsys):
    assert main(["info", "--server", server.address, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ready"] is True
    assert told["models"][0]["default_temporal_scope"]["phase_bias"] == 1.5
    assert told["limits"]["max_step_count"] == 200
    assert [rank["rank"] for rank in told["ranks"]] == [0]
    assert told["mesh"] is None


@pytest.mark.parametrize(
    ("mesh", "line"),
    [
        (info_pb.Mesh(clip_count=2, cfg_rank_count=2, context_rank_count=3), "mesh    2 clips x 2 cfg x 3 context\n"),
        (info_pb.Mesh(clip_count=1, cfg_rank_count=1, context_rank_count=1), None),
    ],
    ids=["shared", "a clip a rank"],
)
def test_info_says_how_ranks_share_a_video_out(server, capsys, mesh, line):
    server.info.mesh.CopyFrom(mesh)
    assert main(["info", "--server", server.address]) == 0
    out = capsys.readouterr().out
    assert line in out if line else "mesh" not in out
    assert main(["info", "--server", server.address, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["mesh"]
    counts = (told["clip_count"], told["cfg_rank_count"], told["context_rank_count"])
    assert counts == (mesh.clip_count, mesh.cfg_rank_count, mesh.context_rank_count)


def test_info_before_the_ranks_are_up(server, capsys):
    del server.info.models[:], server.info.ranks[:]
    server.info.ready = False
    assert main(["info", "--server", server.address]) == 0
    assert "not ready" in capsys.readouterr().out


def test_list(server, capsys):
    assert main(["list", "--server", server.address]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["ID", "STATE", "PRIORITY", "FRAMES", "CREATED", "PROMPT"]
    assert row.split() == ["gen-1", "succeeded", "5", "7/7", "a", "red", "ball"]


def test_list_json(server, capsys):
    assert main(["list", "--server", server.address, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["generation_id"], told["state"], told["spec"]["seed"]) == ("gen-1", "succeeded", 77)


def test_list_of_nothing(server, capsys):
    server.pages = [[]]
    assert main(["list", "--server", server.address]) == 0
    assert capsys.readouterr().out == "no generations\n"


def test_cancel(server, capsys):
    assert main(["cancel", "gen-1", "--server", server.address]) == 0
    assert capsys.readouterr().out == "gen-1: cancelled\n"
    assert server.cancelled.is_set()


def test_cancel_of_an_unknown_id(server, capsys):
    assert main(["cancel", "gen-2", "--server", server.address]) == 2
    assert capsys.readouterr().err == "vinf cancel: gen-2: no such generation\n"


def test_cancel_goes_on_after_one_that_is_not_there(server, capsys):
    assert main(["cancel", "gen-2", "gen-1", "gen-1", "--json", "--server", server.address]) == 2
    out, err = capsys.readouterr()
    (told,) = map(json.loads, out.splitlines())
    assert (told["generation_id"], told["state"]) == ("gen-1", "cancelled")
    assert err == "vinf cancel: gen-2: no such generation\n"


def test_list_of_some_states(server):
    assert main(["list", "--state", "running,pending", "--state", "running", "--server", server.address]) == 0
    assert list(server.lists[0].states) == [pb.GENERATION_STATE_RUNNING, pb.GENERATION_STATE_PENDING]


def test_list_of_a_state_that_is_none(server, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["list", "--state", "running,lost", "--server", server.address])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vinf list: --state: 'lost' is not allowed; allowed: pending, running, cancelling, ")
    assert not server.lists


@pytest.mark.parametrize("command", [["info"], ["list"], ["cancel", "x"]], ids=lambda command: command[0])
def test_no_server(command, capsys):
    assert main([*command, "--server", "127.0.0.1:1"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot reach a vinf server at 127.0.0.1:1: connection refused" in line
