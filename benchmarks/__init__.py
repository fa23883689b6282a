"""Measurements of the engine beside what it is measured against: stock diffusers and the published scheme's costs."""
