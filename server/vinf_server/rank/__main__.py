"""``python -m vinf_server.rank``: one rank, started by torchrun under the front's agent."""

from vinf_server.rank.lifeline import die_with_parent

die_with_parent()  # first of all: a rank must never outlive its agent

from vinf_server.rank.main import main  # noqa: E402

main()
