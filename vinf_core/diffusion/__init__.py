"""Schedule, per-frame noise and the denoising loop."""
