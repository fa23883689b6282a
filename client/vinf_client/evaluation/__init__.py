"""Judging long videos without any trained model: seams between clips, drift, flicker, motion, repetition.

>>> from vinf_client.evaluation import assess, observe
>>> import numpy as np
>>> ramp = np.arange(32, dtype=np.uint8)[:, None, None, None]
>>> video = np.broadcast_to(ramp, (32, 16, 16, 3))
>>> found = assess(observe(video), boundaries=[16])
>>> found.seams["pixels"].ratio, round(found.drift["luminance"].slope)
(1.0, 100)

What a measure is, and where it comes from, stands in the file that computes it. numpy is all they need.
"""

from vinf_client.evaluation.assessment import Assessment, Pooled, assess, pool
from vinf_client.evaluation.observation import DISTANCES, Observation, observe
from vinf_client.evaluation.reading import VideoFile, read_video

__all__ = ["DISTANCES", "Assessment", "Observation", "Pooled", "VideoFile", "assess", "observe", "pool", "read_video"]
