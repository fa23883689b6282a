"""Measurements of the engine beside what it is measured against: stock diffusers and the published scheme's costs."""

from vinf_core.quiet import quiet_imports

# Here, since much is measured in processes of its own, which begin in any of these modules.
quiet_imports()
