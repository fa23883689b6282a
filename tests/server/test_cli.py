"""Arguments, and mistakes in them: one line, exit code 2."""

from __future__ import annotations

import pytest

from vinf_server import cli, devices, worker
from vinf_server.cli import main, parse_config
from vinf_server.flag_values import Address

pytestmark = pytest.mark.fast


def with_gpus(monkeypatch, count):
    monkeypatch.setattr(cli, "count_visible_gpus", lambda environ: count)


def test_defaults(monkeypatch, tmp_path):
    with_gpus(monkeypatch, 0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    config = parse_config([])
    assert (config.model, config.ranks, config.max_waiting, config.device) == ("sprites", 2, 64, "auto")
    assert (str(config.listen), str(config.metrics)) == ("127.0.0.1:50051", "127.0.0.1:9464")
    assert config.data_dir == tmp_path / "vinf"


def test_every_gpu_gets_a_rank(monkeypatch):
    with_gpus(monkeypatch, 3)
    assert parse_config([]).ranks == 3
    assert parse_config(["--device", "cpu"]).ranks == 2


def test_a_mesh_is_said_in_words():
    mesh = parse_config(["--ranks", "8", "--cfg-ranks", "2", "--context-ranks", "2"]).mesh
    assert mesh.describe(8) == mesh.layout(8) == "2 clips x 2 cfg x 2 context"
    assert parse_config(["--ranks", "8"]).mesh.describe(8) == ""
    assert parse_config(["--ranks", "8"]).mesh.layout(8) == "8 clips x 1 cfg x 1 context"


def test_rank_weights(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert str(parse_config([]).rank_weights) == "auto"
    assert str(parse_config(["--deterministic"]).rank_weights) == "even"
    assert str(parse_config(["--deterministic", "--rank-weights", "measured"]).rank_weights) == "measured"
    assert parse_config(["--rank-weights", "2,0.5"]).rank_weights.given == (2, 0.5)


def test_engine_switches(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert (parse_config([]).memory_budget, parse_config([]).skip_negligible) == (None, False)
    assert parse_config(["--skip-negligible-context"]).skip_negligible
    assert [parse_config(arguments).keeps_spare_agent for arguments in ([], ["--no-spare"])] == [True, False]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("auto", None),
        ("8GiB", 8 << 30),
        ("1.5 gib", 3 << 29),
        ("500MB", 500_000_000),
        ("67108864", 64 << 20),
        ("65536KiB", 64 << 20),
        ("17592186044416B", 16 << 40),
        ("16TiB", 16 << 40),
    ],
)
def test_memory_budget(monkeypatch, text, size):
    with_gpus(monkeypatch, 0)
    assert parse_config(["--memory-budget", text]).memory_budget == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("1.5h", 5400.0), ("30m", 1800.0), ("7d", 604800.0), ("forever", None)]
)
def test_how_long_generations_are_kept(monkeypatch, text, seconds):
    with_gpus(monkeypatch, 0)
    assert parse_config(["--keep-for", text]).keep_for_s == seconds
    assert parse_config([]).keep_for_s == 604800.0


def test_disk_budget(monkeypatch):
    with_gpus(monkeypatch, 0)
    config = parse_config(["--disk-budget", "1.5GB", "--keep-count", "7"])
    assert (config.disk_budget, config.keep_count) == (1_500_000_000, 7)
    assert parse_config([]).disk_budget is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0"], "--ranks: 0 is not in [1, 256]"),
        (["--ranks", "257"], "--ranks: 257 is not in [1, 256]"),
        (["--beat-timeout", "0"], "--beat-timeout: 0 is not in [0.5, 3600] seconds"),
        (["--hang-timeout", "nan"], "--hang-timeout: nan is not in [1, 3600] seconds"),
        (["--grace", "0.5"], "--grace: 0.5 is not in [1, 86400] seconds"),
        (["--grace", "20", "--drain-delay", "11"], "--drain-delay: 11 is not in [0, 10] seconds, half of --grace"),
        (["--max-losses", "0"], "--max-losses: 0 is not in [1, 1000000]"),
        (["--ranks", "x"], "--ranks: invalid int value: 'x'"),
        (["--listen", "50051"], "--listen: '50051' is not HOST:PORT"),
        (["--listen", "127.0.0.1:65536"], "--listen: port 65536 is not in [0, 65535]"),
        (["--listen", "0.0.0.0:1"], "--listen: 0.0.0.0:1 can be reached from other machines"),
        (
            ["--listen", "0.0.0.0:1", "--tokens", "t"],
            "--listen: 0.0.0.0:1 can be reached from other machines and is not encrypted, and neither are the tokens; "
            "give --tls-cert and --tls-key, or add --insecure to accept that",
        ),
        (["--tls-cert", "c"], "--tls-cert: needs --tls-key"),
        (["--tls-key", "k"], "--tls-key: needs --tls-cert"),
        (["--tls-client-ca", "a"], "--tls-client-ca: needs --tls-cert"),
        (["--tls-cert", "/no/c", "--tls-key", "/no/k"], "--tls-cert: /no/c cannot be read: No such file or directory"),
        (["--tokens", "/no/t"], "--tokens: /no/t cannot be read: No such file or directory"),
        (["--metrics", "nowhere"], "--metrics: 'nowhere' is not HOST:PORT"),
        (["--ranks", "2", "--rank-weights", "2,1,1"], "--rank-weights: 3 numbers for 2 ranks; give one a rank"),
        (["--web-names", "video.example.org"], "--web-names: only with --web"),
        (["--cfg-ranks", "3"], "--cfg-ranks: 3 is not one of 1, 2"),
        (["--context-ranks", "0"], "--context-ranks: 0 is not in [1, 64]"),
        (
            ["--ranks", "6", "--cfg-ranks", "2", "--context-ranks", "2"],
            "--ranks: 6 is not a multiple of 4, which is --cfg-ranks (2) times --context-ranks (2)",
        ),
        (["--rank-weights", "2,0"], "--rank-weights: 0 is not in [0.001, 1000]"),
        (["--rank-weights", "nan,1"], "--rank-weights: nan is not in [0.001, 1000]"),
        (
            ["--rank-weights", "fast"],
            "--rank-weights: 'fast' is not auto, measured, even, or numbers with commas between",
        ),
        (["--memory-budget", "8G"], "--memory-budget: '8G' is not auto or a size such as 8GiB, 500MB or 8589934592"),
        (["--memory-budget", "GiB"], "--memory-budget: 'GiB' is not auto or a size"),
        (["--memory-budget=-1"], "--memory-budget: '-1' is not auto or a size"),
        (["--memory-budget", "nan"], "--memory-budget: 'nan' is not auto or a size"),
        (["--memory-budget", "0"], "--memory-budget: 0 bytes are not in [64MiB, 16TiB]"),
        (["--memory-budget", "67108863"], "--memory-budget: 67108863 bytes are not in [64MiB, 16TiB]"),
        (["--memory-budget", "16.5TiB"], "--memory-budget: 18141941858304 bytes are not in [64MiB, 16TiB]"),
        (["--disk-budget", "100"], "--disk-budget: 100 bytes are not in [1MiB, 1048576TiB]"),
        (["--disk-budget", "lots"], "--disk-budget: 'lots' is not auto or a size"),
        (["--keep-for", "7"], "--keep-for: '7' is not forever or a time such as 7d, 12h, 30m or 90s"),
        (["--keep-for=-1d"], "--keep-for: '-1d' is not forever or a time"),
        (["--keep-for", "99999d"], "--keep-for: 8.63991e+09 s are not in [0, 3.1536e+08] (ten years)"),
        (["--keep-count", "0"], "--keep-count: 0 is not in [1, 100000]"),
        (["--max-waiting", "0"], "--max-waiting: 0 is not in [1, 100000]"),
        (["--beat-timeout", "nan"], "--beat-timeout: nan is not in [0.5, 3600] seconds"),
        (["--model", " "], "--model: is empty"),
        (["--model", "nope"], "--model: 'nope' is not one of animatediff-v2, animatediff-v3, "),
        (["--model", "./nowhere"], "--model: nowhere is not a folder"),
        (["--model", "some/thing", "--offline"], "--model: the files of some/thing are not on this machine (offline"),
        (
            ["--model", "videocrafter2", "--offline"],
            "--model: the files of adamdad/videocrafterv2_diffusers are not on this machine (offline, and not in the",
        ),
        (["--model-option", "fast"], "--model-option: 'fast' is not NAME=VALUE"),
        (["--model-option", "fast=on"], "--model-option: sprites has no 'fast', it has none"),
        (["--device", "tpu"], "--device: invalid choice: 'tpu'"),
        (["--device", "cuda"], "--device: cuda was asked for, but no CUDA device is visible"),
        (["--ready-file", "/no/such/folder/x"], "--ready-file: /no/such/folder is not a folder"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_mistake_is_one_line(monkeypatch, capsys, arguments, message):
    with_gpus(monkeypatch, 0)
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"vinf serve: error: {message}")


def test_more_ranks_than_gpus(monkeypatch, capsys):
    with_gpus(monkeypatch, 2)
    assert main(["--ranks", "3"]) == 2
    assert "--ranks: 3 ranks need 3 CUDA devices, 2 visible" in capsys.readouterr().err
    assert parse_config(["--ranks", "3", "--device", "cpu"]).ranks == 3


@pytest.mark.parametrize(
    ("text", "loopback"),
    [("127.0.0.1:1", True), ("localhost:1", True), ("[::1]:1", True), ("[::]:1", False), ("example.org:1", False)],
)
def test_addresses(text, loopback):
    address = Address.parse(text, flag="--listen")
    assert str(address) == text
    assert address.is_loopback is loopback


def test_other_machines_are_allowed_when_asked_for(monkeypatch):
    with_gpus(monkeypatch, 0)
    assert str(parse_config(["--listen", "0.0.0.0:1", "--insecure"]).listen) == "0.0.0.0:1"
    assert str(parse_config(["--listen", "0.0.0.0:1", "--tls-cert", "c", "--tls-key", "k"]).listen) == "0.0.0.0:1"


@pytest.mark.parametrize(
    ("visible", "present", "count"),
    [("", 4, 0), ("-1", 4, 0), ("0,1", 4, 2), ("1,9,2", 4, 1), ("GPU-1,GPU-2", 4, 2), ("0", 0, 0)],
)
def test_visible_devices_narrow_what_is_present(monkeypatch, visible, present, count):
    monkeypatch.setattr(devices, "_count_present_gpus", lambda: present)
    assert devices.count_visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == count
    assert devices.count_visible_gpus({}) == present


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "127.0.0.1:50051" in text
    assert "None" not in text


def test_spans_go_where_the_flag_or_the_environment_says(monkeypatch):
    with_gpus(monkeypatch, 0)
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    assert parse_config([]).otlp_endpoint is None
    assert parse_config(["--otlp-endpoint", "http://[::1]:4317"]).otlp_endpoint == "http://[::1]:4317"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")
    assert parse_config([]).otlp_endpoint == "", "the library reads it"
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert parse_config([]).otlp_endpoint is None


def test_logs_of_a_server_and_of_a_worker(monkeypatch, tmp_path, capsys):
    with_gpus(monkeypatch, 0)
    monkeypatch.setattr(worker, "count_visible_gpus", lambda environ: 0)
    (tmp_path / "token").write_text("x" * 64)
    (tmp_path / "token").chmod(0o600)
    join = ["--join", "127.0.0.1:1", "--insecure", "--join-token-file", str(tmp_path / "token")]
    assert (parse_config([]).log_format, worker.parse_config(join).ranks.log_format) == ("text", "text")
    assert parse_config(["--log-format", "json"]).log_format == "json"
    assert worker.parse_config([*join, "--log-format", "json"]).ranks.log_format == "json"
    with pytest.raises(SystemExit) as ended:
        parse_config(["--log-format", "xml"])
    assert ended.value.code == 2
    assert "--log-format: invalid choice: 'xml'" in capsys.readouterr().err
