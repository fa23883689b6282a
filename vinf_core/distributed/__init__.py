"""The only room that talks to torch.distributed: topology, groups, control plane, exchange of frames."""
