"""Exit codes by class of error, the same for every client command."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_ENDED = 6
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
EXIT_TERMINATED = 143

EXIT_CODES_HELP = """\
exit codes:
  0    done
  1    the server failed in an unexpected way; vinf doctor: something is to be mended
  2    an option, the request, the output, the token, or the id of a generation is not valid
  3    no server there, the connection broke, or the local server died
  4    a generation failed, was cancelled by somebody else, or a frame of it is damaged
  5    the server is not ready, its queue or its disk is full, or a limit of this client is reached
  6    the generation has not ended yet
  130  interrupted by Ctrl-C, a second one quits at once
  141  whoever read the output had gone
  143  terminated
vinf generate without --detach and vinf batch cancel what they wait for when they are interrupted or terminated; no
other command does."""
