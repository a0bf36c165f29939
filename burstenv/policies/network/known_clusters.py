"""Clusters that an agent knows: their size and how unlike their replicas are, beside those of its training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field

from burstenv.config import Config

if TYPE_CHECKING:
    from burstenv.cluster import ReplicaSpec

MARGIN = 2.0  # beyond the training's, for the ratios: what a replica holds and how fast it is vary by degrees

Many = Annotated[int, Field(ge=1, le=100_000)]
Ratio = Annotated[float, Field(ge=1.0, le=1e9)]


class KnownClusters(Config):
    """Clusters that are like those of a training, in numbers that a deployment knows beforehand.

    Attributes:
        fewest: Replicas of the smallest one.
        most: Replicas of the largest one.
        gateways: Most gateways with a log each.
        kv_ratio: Greatest ratio of the largest KV cache of a replica to the smallest one of the same cluster.
        speed_ratio: Likewise, of the times per prefill token.
    """

    model_config = ConfigDict(strict=True)

    fewest: Many
    most: Many
    gateways: Many
    kv_ratio: Ratio
    speed_ratio: Ratio

    @classmethod
    def of(cls, specs: Sequence[ReplicaSpec], gateways: int) -> KnownClusters:
        """Return those exactly like one cluster.

        Args:
            specs: Its replicas; KV caches are compared in tokens, speeds in seconds per prefill token.
            gateways: Its gateways with a log each.
        """
        kv_tokens = [spec.num_blocks * spec.block_size for spec in specs]
        token_s = [spec.latency.prefill_token_s() for spec in specs]
        return cls(
            fewest=len(specs),
            most=len(specs),
            gateways=gateways,
            kv_ratio=max(kv_tokens) / min(kv_tokens),
            speed_ratio=max(token_s) / min(token_s),
        )

    def also(self, other: KnownClusters) -> KnownClusters:
        """Return the range that holds both: of a training on both."""
        return KnownClusters(
            fewest=min(self.fewest, other.fewest),
            most=max(self.most, other.most),
            gateways=max(self.gateways, other.gateways),
            kv_ratio=max(self.kv_ratio, other.kv_ratio),
            speed_ratio=max(self.speed_ratio, other.speed_ratio),
        )

    def why_unknown(self, cluster: KnownClusters) -> str:
        """Return in which way one cluster (of :meth:`of`) is unlike the known ones; empty if it is like them."""
        if not self.fewest <= cluster.most <= self.most:
            return f"{cluster.most} replicas, trained on {self._size}"
        if cluster.gateways > self.gateways:
            return f"{cluster.gateways} gateways, trained on {self.gateways}"
        for what, one, known in (
            ("KV caches", cluster.kv_ratio, self.kv_ratio),
            ("prefill speeds", cluster.speed_ratio, self.speed_ratio),
        ):
            if one > MARGIN * known:
                return f"{what} that differ {one:.1f}-fold, trained on {known:.1f}-fold"
        return ""

    def __str__(self) -> str:
        gateways = f"{self.gateways} {'gateway' if self.gateways == 1 else 'gateways'}"
        kv_ratio, speed_ratio = MARGIN * self.kv_ratio, MARGIN * self.speed_ratio
        return (
            f"{self._size} replicas, up to {gateways}, KV caches that differ up to {kv_ratio:.1f}-fold and prefill "
            f"speeds up to {speed_ratio:.1f}-fold"
        )

    @property
    def _size(self) -> str:
        return str(self.most) if self.fewest == self.most else f"{self.fewest} to {self.most}"
