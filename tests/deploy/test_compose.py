"""compose.yaml: what would only be noticed when somebody starts it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.replay.dockerfile import Dockerfile
from vinf_server.config import ServeConfig

pytestmark = pytest.mark.fast

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"

_KEYS = {"name", "services", "networks", "volumes", "x-vinf"}
_SERVICE_KEYS = {
    *("image", "build", "profiles", "command", "environment", "restart", "depends_on", "healthcheck"),
    *("volumes", "tmpfs", "read_only", "ports", "networks", "shm_size", "deploy", "stop_grace_period"),
    *("cap_drop", "security_opt"),
}
_VARIABLE = re.compile(r"\$\{(\w+)(:?-[^}]*)?\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def test_every_key_is_known(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    assert set(compose) <= _KEYS
    for name, service in services.items():
        assert set(service) <= _SERVICE_KEYS, f"{name}: a word that compose does not know would be refused"


def test_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        _, _, tag = service["image"].partition(":")
        if "build" in service:
            assert tag == service["build"]["target"].replace("gpu", "cuda")
        else:
            assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), f"{name}: {service['image']} is not one version"


def test_what_is_built_is_a_target_of_the_dockerfile(services: dict[str, dict[str, Any]]) -> None:
    file = Dockerfile.read(ROOT / "Dockerfile")
    declared = {step.value for stage in file.stages.values() for step in stage.instructions if step.name == "ARG"}
    for service in services.values():
        if build := service.get("build"):
            assert (DEPLOY / build["context"]).resolve() == ROOT
            assert build["target"] in file.stages
            assert set(build.get("args", {})) <= declared, "Docker would ignore it"


def test_every_port_is_published_to_this_host_alone(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for ports in published.values() for port in ports)
    port = ServeConfig(ranks=1).listen.port
    assert published["vinf"] == published["vinf-gpu"] == [f"127.0.0.1:{port}:{port}"]


def test_what_is_mounted_exists(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source, target, *mode = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: Docker would make an empty folder of {source}"
                assert mode == ["ro"], f"{name}: may write to {source}"
            else:
                assert source in compose["volumes"]


def test_every_service_is_watched_and_bounded(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service["restart"] == "unless-stopped"
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_the_health_check_is_that_of_the_image(services: dict[str, dict[str, Any]]) -> None:
    check = Dockerfile.read(ROOT / "Dockerfile").last("cpu", "HEALTHCHECK")
    assert check is not None
    ours = services["vinf"]["healthcheck"]
    assert check.value == f'CMD ["sh", "-c", "{ours["test"][1]}"]'
    for flag in ("interval", "timeout", "start-period", "retries"):
        assert check.flag(flag) == str(ours[flag.replace("-", "_")])


def test_a_server_has_time_to_stop(services: dict[str, dict[str, Any]]) -> None:
    for name in ("vinf", "vinf-gpu"):
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > ServeConfig(ranks=1).grace_s


def test_networks_are_declared_and_lead_where_they_must(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    members = {name: set(service["networks"]) for name, service in services.items()}
    assert set.union(*members.values()) == set(compose["networks"])
    for name, service in services.items():
        open_ones = [network for network in members[name] if not compose["networks"][network].get("internal")]
        assert open_ones or not service.get("ports"), f"{name}: a port of an internal network is not published"
    assert not members["grafana"] & members["vinf"], "Grafana has nothing to ask the server"
    assert members["grafana"] & members["prometheus"]
    # Prometheus reads one file with one target, whichever of the two services runs.
    for name in ("vinf", "vinf-gpu"):
        (shared,) = members[name] & members["prometheus"]
        assert services[name]["networks"][shared]["aliases"] == ["vinf"]


def test_one_server_runs_unless_asked_otherwise(services: dict[str, dict[str, Any]]) -> None:
    settings = dict(line.split("=") for line in (DEPLOY / ".env").read_text().splitlines() if not line.startswith("#"))
    assert settings == {"COMPOSE_PROFILES": "cpu"}
    assert {name: service.get("profiles") for name, service in services.items() if "profiles" in service} == {
        "vinf": ["cpu"],
        "vinf-gpu": ["gpu"],
    }


def test_variables_have_defaults_and_no_secret_is_in_the_file() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert all(default for _, default in _VARIABLE.findall(text))
    assert not re.search(r"PASSWORD|SECRET_KEY|TOKEN", text)


def test_prometheus_and_grafana_find_what_they_read(services: dict[str, dict[str, Any]]) -> None:
    scrape = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scrape for static in job.get("static_configs", ()) for target in static["targets"]}
    metrics = ServeConfig(ranks=1).metrics
    assert metrics is not None
    assert f"vinf:{metrics.port}" in targets
    folder = DEPLOY / "grafana" / "provisioning"
    (source,) = [
        source
        for path in (folder / "datasources").glob("*.yml")
        for source in yaml.safe_load(path.read_text())["datasources"]
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = [
        provider
        for path in (folder / "dashboards").glob("*.yml")
        for provider in yaml.safe_load(path.read_text())["providers"]
    ]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    mounted = {mount.split(":")[1] for mount in services["grafana"]["volumes"]}
    assert home in mounted
    assert Path(home).is_relative_to(provider["options"]["path"])
