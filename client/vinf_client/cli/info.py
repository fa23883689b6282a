"""`vinf info`: what a server is and can do."""

from vinf_client._types import ImageFrames, Limits, Model, Rank, ServerInfo
from vinf_client.cli.common import Parser, client_of, print_json, run, server_of

_EXAMPLES = """
vinf info
vinf info --server 10.0.0.1:50051 --tls-ca ca.crt --token-file token
vinf info --json | jq '.models[0].vocabulary'
"""

_IMAGE_FRAMES = {
    ImageFrames.UNKNOWN: "taken in a way that this client does not know",
    ImageFrames.NONE: "none taken",
    ImageFrames.FIRST: "taken for the first frame",
    ImageFrames.FIRST_AND_LAST: "taken for the first and the last frame",
    ImageFrames.ANY: "taken for any frame",
}


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser("info", "Show a server's models, limits and ranks.", examples=_EXAMPLES)
    parser.add_server_option()
    parser.add_json_option("print one line of JSON with everything the server tells")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args(argv)

    def body() -> None:
        with client_of(arguments) as client:
            info = client.info()
        if arguments.json:
            print_json(info)
        else:
            print("\n".join(_lines(info, server_of(arguments))))

    return run(parser.prog, body)


def _lines(info: ServerInfo, server: str) -> list[str]:
    state = "ready" if info.ready else "not ready: the ranks are not up"
    lines = [
        f"vinf {info.version} at {server}: {state}",
        f"generations: {info.running_generation_count} running, {info.waiting_generation_count} waiting "
        f"(at most {info.limits.max_waiting_generation_count})",
    ]
    for model in info.models:
        lines += _model_lines(model, info.limits, default=model is info.models[0])
    mesh = info.mesh
    if mesh is not None and mesh.clip_count != len(info.ranks):
        lines.append(f"mesh    {mesh.clip_count} clips x {mesh.cfg_rank_count} cfg x {mesh.context_rank_count} context")
    return lines + [_rank_line(rank) for rank in info.ranks]


def _model_lines(model: Model, limits: Limits, *, default: bool) -> list[str]:
    scope = model.default_temporal_scope
    width = f"{model.default_width} [{model.min_width}, {model.max_width}]"
    height = f"{model.default_height} [{model.min_height}, {model.max_height}]"
    step = f", a multiple of {model.frame_count_step} plus 1" if model.frame_count_step > 1 else ""
    others = [solver.value for solver in model.solvers if solver is not model.default_solver]
    solvers = f" (or {', '.join(others)})" if others else ""
    lines = [
        f"model {model.name}{' (default)' if default else ''}",
        f"  size            width {width}, height {height}, multiples of {model.size_multiple}",
        f"  frames          {model.default_frame_count} [1, {model.max_frame_count}]{step}, "
        f"trained on {model.trained_frame_count}, at {float(model.default_frame_rate):g} frames/s",
        f"  steps           {model.default_step_count} [1, {limits.max_step_count}], "
        f"solver {model.default_solver.value}{solvers}, guidance {model.default_guidance_scale:g}",
        f"  temporal scope  window {scope.local_window_frames}, global frames {scope.global_frames}, "
        f"phase timestep {scope.phase_timestep}, phase bias {scope.phase_bias:g}",
    ]
    if limits.rank_memory_budget_bytes:
        most = model.max_frame_count_at_default_size
        lines.append(
            f"  memory          {limits.rank_memory_budget_bytes / 2**30:.1f} GiB a rank, room for "
            f"{f'{most} frames' if most else 'no frame'} of {model.default_width} x {model.default_height}"
        )
    if model.vocabulary:
        words = f", at most {model.max_prompt_words} of them" if model.max_prompt_words else ""
        lines.append(f"  prompt          these words only{words}: {' '.join(model.vocabulary)}")
    else:
        lines.append(f"  prompt          up to {model.max_prompt_chars} characters")
    least, most = model.min_image_count, model.max_image_count
    needed = f"{least} needed, " if least else ""
    count = f", {needed}at most {most} a video" if most else ""
    lines.append(f"  images          {_IMAGE_FRAMES[model.image_frames]}{count}")
    if model.single_prompt:
        lines.append("  story           none: one prompt for the whole video")
    return lines


def _rank_line(rank: Rank) -> str:
    if not rank.device:
        return f"rank {rank.rank}  starting on {rank.host}, pid {rank.pid}"
    memory = f"{rank.memory_used_bytes / 2**30:.1f} of {rank.memory_total_bytes / 2**30:.1f} GiB"
    return f"rank {rank.rank}  {rank.device} ({rank.device_name}) on {rank.host}, pid {rank.pid}, {memory}"
