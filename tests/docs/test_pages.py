"""The documents say what the code says, and can be built as a site."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from vinf_client._translate import BY_REASON
from vinf_server.front.generations import generation, leases
from vinf_server.front.metrics.generations import FAILURE_REASONS
from vinf_server.front.rpc import errors, frame_requests, server, spec, terms, validation


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without the table's own head."""
    section = (ROOT / "docs" / page).read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.fast
def test_every_error_of_a_call_is_explained() -> None:
    told = {cells[0].strip("`"): cells for cells in rows("errors.md", "Calls")}
    wanted = {row.reason: row.code.name for row in errors.TABLE.values()} | {"INTERNAL": "INTERNAL"}
    wanted |= {f"TOKEN_{what}": "UNAUTHENTICATED" for what in ("MISSING", "EXPIRED")}
    wanted["CERTIFICATE_INVALID"] = "UNAUTHENTICATED"
    assert {reason: cells[1].strip("`") for reason, cells in told.items()} == wanted
    for reason, kind in BY_REASON.items():
        assert told[reason][4].strip("`") == kind.__name__, f"errors.md names another class for {reason}"


@pytest.mark.fast
def test_every_end_of_a_generation_is_explained() -> None:
    told = {cells[0].strip("`"): cells[1] for cells in rows("errors.md", "Generations")}
    missing = {*FAILURE_REASONS, leases.LEASE_EXPIRED, leases.JOB_DEADLINE, "CANCEL_REQUESTED"} - {*told, "INTERNAL"}
    assert not missing, f"errors.md does not explain {sorted(missing)}"
    uncounted = {reason for reason, state in told.items() if state == "failed"} - set(FAILURE_REASONS)
    assert not uncounted, f"their series do not start at 0: {sorted(uncounted)}"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("heading", "name", "told"),
    [
        ("A request", "bytes of a request", f"{server.MAX_REQUEST_BYTES >> 20} MiB"),
        ("A request", "metadata of a call", f"{server.MAX_METADATA_BYTES >> 10} KiB"),
        ("A request", "calls at once on one connection", str(server.MAX_STREAMS_PER_CONNECTION)),
        (
            "A request",
            "labels",
            f"{terms.MAX_LABELS}, keys of 1 to 63 characters from `[a-z0-9_-]`, "
            f"values of at most {terms.MAX_LABEL_CHARS}",
        ),
        ("A request", "`priority`", f"0 to {terms.MAX_PRIORITY}, default {generation.DEFAULT_PRIORITY}"),
        (
            "A request",
            "`lease_duration`",
            f"{terms.MIN_LEASE_S:g} s to {terms.MAX_LEASE_S / 3600:g} h, default {terms.DEFAULT_LEASE_S:g} s",
        ),
        ("A request", "`deadline`", f"at most {terms.MAX_DEADLINE_S / 86400:g} days ahead"),
        ("A video", "`inference_step_count`", f"1 to {spec.MAX_STEP_COUNT}"),
        ("A video", "`guidance_scale`", f"1 to {spec.MAX_GUIDANCE_SCALE:g}"),
        ("A video", "`TemporalScope.global_frames`", f"0 to {spec.MAX_GLOBAL_FRAMES}"),
        ("A video", "`TemporalScope.phase_timestep`", f"0 to {spec.MAX_PHASE_TIMESTEP}"),
        ("A video", "`TemporalScope.phase_bias`", f"0 to {spec.MAX_PHASE_BIAS:g}"),
        ("A video", "`prompt_segments`", f"at most {spec.MAX_SEGMENTS}"),
        (
            "A video",
            "`frame_rate`",
            f"at most {spec.MAX_RATE} frames a second, `num` to {spec.MAX_RATE_NUM} and `den` to {spec.MAX_RATE_DEN}",
        ),
        ("A video", "`retention_frame_count`", f"0 (all) or {terms.MIN_RETENTION} and more"),
        ("Reading", "`PullFramesRequest.max_frames`", f"1 to {frame_requests.MAX_PULLED_FRAMES}"),
        ("Reading", "`PullFramesRequest.wait`", f"0 to {frame_requests.MAX_WAIT_S:g} s"),
        (
            "Reading",
            "`StreamFramesRequest.keepalive_interval`",
            f"{frame_requests.MIN_KEEPALIVE_S:g} to {frame_requests.MAX_KEEPALIVE_S:g} s, "
            f"default {frame_requests.DEFAULT_KEEPALIVE_S:g} s",
        ),
        ("Reading", "`OutputFormat.row_alignment_bytes`", f"a power of two up to {frame_requests.MAX_ALIGNMENT_BYTES}"),
        (
            "Reading",
            "`ListGenerationsRequest.page_size`",
            f"at most {validation.MAX_PAGE_SIZE}, default {validation.DEFAULT_PAGE_SIZE}",
        ),
    ],
)
def test_limits_are_those_of_the_code(heading: str, name: str, told: str) -> None:
    found = {cells[0]: cells[1] for cells in rows("limits.md", heading)}
    assert found[name] == told


@pytest.mark.process
def test_the_protocol_reference_is_what_the_contracts_say() -> None:
    command = [sys.executable, ROOT / "scripts/protocol_reference.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_the_site_can_be_built(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    text = re.sub(r"<[^>]+>", "", (tmp_path / "protocol.html").read_text())
    assert "PullFramesRequest" in text, "the site has no protocol reference"
