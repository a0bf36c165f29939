"""``render_mode="human"``: a window that shows the pictures of :mod:`burstenv.envs.rendering.frame`, through pygame."""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv.errors import BurstenvError


def need_pygame() -> Any:
    """Return pygame.

    Raises:
        BurstenvError: If it is not installed.
    """
    try:
        import pygame  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise BurstenvError("render_mode='human' needs pygame: pip install 'burstenv[render]'") from None
    return pygame


class Window:
    """A window of one environment; once the user closes it, it stays closed and the episode continues.

    Args:
        title: Title of the window.
        frames_per_s: Highest frame rate.
    """

    def __init__(self, title: str, frames_per_s: int):
        self._pygame = need_pygame()
        self._title = title
        self._frames_per_s = frames_per_s
        self._screen: Any = None
        self._clock: Any = None
        self._closed = False

    def show(self, frame: np.ndarray) -> None:
        """Show a picture, (H, W, 3) uint8, and wait for the frame rate."""
        if self._closed:
            return
        pygame = self._pygame
        if self._screen is None:
            pygame.display.init()
            pygame.display.set_caption(self._title)
            self._screen = pygame.display.set_mode((frame.shape[1], frame.shape[0]))
            self._clock = pygame.time.Clock()
        if any(event.type == pygame.QUIT for event in pygame.event.get()):
            self.close()
            return
        surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
        self._screen.blit(surface, (0, 0))
        pygame.display.flip()
        self._clock.tick(self._frames_per_s)

    def close(self) -> None:
        """Close the window; a second call does nothing."""
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
        self._closed = True
