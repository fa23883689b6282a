"""Launches, losses and giving up, with scripted ranks below a quick agent."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest

from tests.server.conftest import ROOT
from vinf_server.config import ServeConfig
from vinf_server.flag_values import RankMesh
from vinf_server.front.data_dir import DataDir
from vinf_server.front.engine.launch import SHARED_VARIABLES, Agent, LaunchPlan, agent_command, agent_environment
from vinf_server.front.engine.status import EngineStatus
from vinf_server.front.engine.supervisor import GroupConfigurationError, GroupFailedError, Supervisor


class Listener:
    def __init__(self):
        self.losses = []

    def group_ready(self, group):
        raise AssertionError("these ranks never are")

    def group_lost(self, loss):
        self.losses.append(loss)


@pytest.fixture
def supervised(tmp_path, metrics, monkeypatch):
    monkeypatch.chdir(ROOT)

    def run(model):
        config = ServeConfig(
            ranks=2,
            model=model,
            rank_module="tests.server.fake_rank",
            agent_module="tests.server.fake_agent",
            max_losses=3,
            relaunch_delay_s=0.01,
        )
        data_dir = DataDir(tmp_path / "data")
        listener, status = Listener(), EngineStatus()

        async def scenario():
            supervisor = Supervisor(config, data_dir, status, listener, metrics)
            try:
                await asyncio.wait_for(supervisor.run(), 60)
            finally:
                await supervisor.stop(within_s=5)

        try:
            asyncio.run(scenario())
        finally:
            data_dir.close()
            run.listener, run.epoch = listener, status.group.epoch

    return run


@pytest.mark.process
def test_crash_loop_ends_with_the_reason(supervised, sample, caplog):
    with pytest.raises(GroupFailedError, match=r"lost 3 times within 10 minutes; giving up\. .* cannot load"):
        supervised("crash")
    assert supervised.epoch == 3
    assert [loss.cause for loss in supervised.listener.losses] == ["exit"] * 3
    assert sample("vinf_worker_restarts_total", cause="exit") == 3
    assert sample("vinf_worker_recovery_duration_seconds_count", cause="exit") == 0, "none was ever ready"
    assert "cannot load its weights" in caplog.text
    assert "ended with exit code 1" in caplog.text


@pytest.mark.process
def test_mistake_in_the_configuration_is_not_tried_again(supervised, caplog):
    caplog.set_level(logging.INFO)
    with pytest.raises(GroupConfigurationError, match=r"^no model is called 'unknown'$"):
        supervised("unknown")
    assert supervised.epoch == 1


AGENT_LOG = """\
W1121 22:51:35 20221 api.py:1028] Sending process 20283 closing signal SIGTERM
E1121 22:51:35 20221 api.py:1002] failed (exitcode: {code}) local_rank: 1 (pid: 20284) of binary: /usr/bin/python
Traceback (most recent call last):
  File "agent_shim.py", line 35, in <module>
"""


@pytest.fixture
def finished_agent(tmp_path):
    """An agent that has left its logs."""

    def make(agent_log, *, rank_log="", code=1):
        folder = tmp_path / "run" / "attempt_0" / "1"
        folder.mkdir(parents=True)
        (tmp_path / "agent.log").write_text(agent_log)
        (folder / "stderr.log").write_text(rank_log)
        plan = LaunchPlan(epoch=1, link_address="unix:x", log_folder=tmp_path, failure_file=tmp_path / "failure.json")

        async def build():
            async def wait():
                return 1

            return Agent(SimpleNamespace(pid=1, returncode=code, wait=wait), plan, tmp_path)

        return asyncio.run(build())

    return make


@pytest.mark.fast
@pytest.mark.parametrize(
    ("code", "summary", "by_signal"),
    [("-9", "rank 1 ended with signal 9", True), ("3", "rank 1 ended with exit code 3", False)],
)
def test_first_failure_is_named(finished_agent, code, summary, by_signal):
    agent = finished_agent(AGENT_LOG.format(code=code), rank_log="out of memory\n")
    assert agent.exit_summary() == summary
    assert agent.ended_by_signal is by_signal
    assert agent.log_tail().endswith("run/attempt_0/1/stderr.log:\nout of memory")
    assert agent.last_words() == "out of memory"


@pytest.mark.fast
def test_rank_without_a_word_gives_no_traceback_of_the_agent(finished_agent):
    agent = finished_agent(AGENT_LOG.format(code="-9"))
    assert agent.log_tail().startswith("logs are in ")
    assert agent.last_words() == ""


@pytest.mark.fast
def test_agent_that_fails_itself_is_quoted(finished_agent):
    agent = finished_agent("no module named torch\n")
    assert agent.exit_summary() == "the agent ended with exit code 1"
    assert agent.log_tail().endswith("agent.log:\nno module named torch")


@pytest.mark.fast
def test_agent_that_has_seen_nothing_is_blamed_for_nothing(finished_agent):
    agent = finished_agent("", code=None)
    assert agent.exit_summary() == "the agent was still running"
    assert not agent.ended_by_signal


@pytest.mark.fast
@pytest.mark.parametrize("content", ["", "{", "[]", '{"reason": "x"}'])
def test_unfinished_failure_file_counts_as_none(finished_agent, tmp_path, content):
    agent = finished_agent("")
    assert agent.read_rank_failure() is None
    (tmp_path / "failure.json").write_text(content)
    assert agent.read_rank_failure() is None


@pytest.mark.fast
def test_ranks_are_told_all_they_need(tmp_path):
    config = ServeConfig(
        ranks=2,
        model="sprites",
        device="cpu",
        dtype="bfloat16",
        deterministic=True,
        mesh=RankMesh(cfg=2),
        memory_budget=2**30,
        skip_negligible=True,
    )
    plan = LaunchPlan(epoch=4, link_address="unix:/x", log_folder=tmp_path, failure_file=tmp_path / "f")
    environment = agent_environment(config, plan)
    told = {name: value for name, value in environment.items() if name.startswith("VINF_")}
    assert told.pop("VINF_FRONT_PID").isdecimal()
    assert told == {
        "VINF_LINK": "unix:/x",
        "VINF_EPOCH": "4",
        "VINF_MODEL": "sprites",
        "VINF_MODEL_BASE": "",
        "VINF_MODEL_REVISION": "",
        "VINF_MODEL_OPTIONS": "{}",
        "VINF_DEVICE": "cpu",
        "VINF_DTYPE": "bfloat16",
        "VINF_CFG_RANKS": "2",
        "VINF_CONTEXT_RANKS": "1",
        "VINF_RANK_WEIGHTS": "auto",
        "VINF_MEMORY_BUDGET": "1073741824",
        "VINF_KNOWN_MEMORY": "",
        "VINF_SKIP_NEGLIGIBLE": "1",
        "VINF_DETERMINISTIC": "1",
        "VINF_LOG_FORMAT": "text",
        "VINF_FAILURE_FILE": str(tmp_path / "f"),
    }
    assert {"VINF_CFG_RANKS", "VINF_CONTEXT_RANKS"} <= set(SHARED_VARIABLES), "other hosts' ranks must know them, too"
    by_default = agent_environment(ServeConfig(ranks=2), plan)
    assert (by_default["VINF_MEMORY_BUDGET"], by_default["VINF_SKIP_NEGLIGIBLE"]) == ("0", "0")
    assert environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
    command = agent_command(config, plan, tmp_path)
    assert command[command.index("--nproc-per-node") + 1] == "2"
    assert command[command.index("--max-restarts") + 1] == "0"
    assert command[-2:] == ["-m", "vinf_server.rank"]


@pytest.mark.fast
def test_a_mesh_must_fit_the_ranks_of_all_hosts(tmp_path, metrics):
    class TwoHosts:
        async def complete(self):
            return [SimpleNamespace(rank_count=1)]

    data_dir = DataDir(tmp_path / "data")
    config = ServeConfig(ranks=2, mesh=RankMesh(cfg=2))
    supervisor = Supervisor(config, data_dir, EngineStatus(), Listener(), metrics, TwoHosts())
    try:
        with pytest.raises(GroupConfigurationError, match="--ranks: 3 is not a multiple of 2, which is --cfg-ranks"):
            asyncio.run(supervisor.run())
    finally:
        data_dir.close()
