"""The timeline of an episode: its series, and the page that draws them."""

from burstenv.deprecated import moved_into

__getattr__ = moved_into(__name__, "burstenv.evaluation.timeline.series")
