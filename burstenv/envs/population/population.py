"""The classes and tenants of a scenario's requests.

Classes and tenants of a mix are drawn by the seed of the episode, one for each session or request without one. The
traffic of a tenant with bursts of its own is denser at first and is then thinned outside its bursts, so that its mean
is its share: sessions are kept or left out whole, by the instant of their first request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from burstenv.envs.population.config import MOST_TENANTS, NAMES_BY, ClassesConfig, TenantsConfig
from burstenv.errors import BurstenvError
from burstenv.workload import CLASSES, EpisodeRequests, EpisodeSampler, Trace
from burstenv.workload.trace import MODELS

if TYPE_CHECKING:
    from burstenv.envs.scenario_config import ScenarioConfig

_CLASS_STREAM, _TENANT_STREAM, _BURST_STREAM = 0x636C6173, 0x74656E61, 0x62757273  # apart from an episode's own draws
NONE = "none"  # the tenant of requests without one
Integers = NDArray[np.integer]


class Population:
    """The classes and tenants of a scenario.

    Args:
        config: The scenario's.

    Attributes:
        class_names: By code.
        tenant_names: By number; empty without tenants. Those of a trace are added as the trace is seen.
    """

    def __init__(self, config: ScenarioConfig):
        self._scenario = config.name
        self._classes: ClassesConfig = config.classes
        self._tenants: TenantsConfig | None = config.tenants
        self.class_names: tuple[str, ...] = config.class_names
        self.tenant_names: list[str] = []
        if self._tenants is not None:
            self.tenant_names = list(self._tenants.of)
            self._add(NAMES_BY.get(self._tenants.by, ()))

    @property
    def plain(self) -> bool:
        """Whether there are only conversation and api, and no tenants: requests are as they are drawn."""
        return self._classes.by == "log-type" and self._tenants is None

    @property
    def of_trace(self) -> bool:
        """Whether its tenants are those of the trace that is played."""
        return self._tenants is not None and self._tenants.by == "trace"

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weight of each tenant, (T,)."""
        listed = {} if self._tenants is None else self._tenants.of
        return np.array([listed[name].weight if name in listed else 1.0 for name in self.tenant_names])

    def see(self, trace: Trace) -> None:
        """Add the tenants of a trace, if they come from there.

        Raises:
            BurstenvError: If the trace names none, or too many.
        """
        if not self.of_trace:
            return
        if not (trace.tenant >= 0).any():
            raise BurstenvError(
                f"{trace.metadata.get('source', 'trace')}: names no tenants, and those of scenario {self._scenario!r} "
                "come from the trace; give it a column tenant"
            )
        self._add([*trace.metadata["tenants"], *([NONE] if (trace.tenant < 0).any() else [])])
        if len(self.tenant_names) > MOST_TENANTS:
            raise BurstenvError(
                f"{trace.metadata.get('source', 'trace')}: has {len(self.tenant_names):,} tenants; a scenario may have "
                f"{MOST_TENANTS:,}"
            )

    def _add(self, names: Sequence[str]) -> None:
        self.tenant_names += [name for name in dict.fromkeys(names) if name not in self.tenant_names]

    # -- episodes --------------------------------------------------------------------------------------

    def draw(self, sampler: EpisodeSampler, seed: int, rate_per_s: float) -> EpisodeRequests:
        """Draw the requests of an episode at a mean rate, with their classes and tenants."""
        if self.plain:
            return self.assign(sampler.sample(seed, rate_per_s), seed)
        listed = [] if self._tenants is None else list(self._tenants.of.values())
        if not any(tenant.bursts for tenant in listed):
            return self.assign(sampler.sample(seed, rate_per_s), seed)
        peaks = np.array([tenant.bursts.factor if tenant.bursts else 1.0 for tenant in listed])
        shares = np.array([tenant.share for tenant in listed], np.float64)
        denser = float(peaks @ shares)
        drawn = sampler.sample(seed, rate_per_s * denser)
        tenant = _choose(drawn, peaks * shares / denser, _TENANT_STREAM, seed)
        kept = self._thinned(replace(drawn, tenant=tenant.astype(np.int32)), seed)
        metadata = {**kept.metadata, "requests": len(kept), "rate_per_s": rate_per_s}
        return self._with_classes(replace(kept, metadata=metadata), seed)

    def assign(self, drawn: EpisodeRequests, seed: int) -> EpisodeRequests:
        """Return drawn or recorded requests with the classes and tenants of the scenario.

        Raises:
            BurstenvError: If one is of a class or tenant that the scenario does not have.
        """
        if self._tenants is None:
            return self._with_classes(drawn, seed)
        if self._tenants.by == "mix":
            shares = [tenant.share or 0.0 for tenant in self._tenants.of.values()]
            tenant = _choose(drawn, np.array(shares), _TENANT_STREAM, seed)
        elif self._tenants.by == "trace":
            names = [*drawn.names.get("tenants", ()), NONE]
            known = {name: number for number, name in enumerate(self.tenant_names)}
            missing = [names[code] for code in np.unique(drawn.tenant).tolist() if names[code] not in known]
            if missing:
                raise BurstenvError(
                    f"tenant {missing[0]!r} of the trace is not among those of the scenario's own trace"
                )
            tenant = np.array([known.get(name, -1) for name in names], np.int32)[drawn.tenant]
        else:
            tenant = self._by_column(drawn, self._tenants.by, self.tenant_names, "tenant")
        return self._with_classes(replace(drawn, tenant=tenant.astype(np.int32)), seed)

    def _with_classes(self, drawn: EpisodeRequests, seed: int) -> EpisodeRequests:
        by = self._classes.by
        if by == "log-type":
            self._check_names(drawn)
            return drawn
        if by == "mix":
            assert self._classes.mix is not None
            code = _choose(drawn, self._of_classes(self._classes.mix), _CLASS_STREAM, seed)
            for number, tenant in enumerate([] if self._tenants is None else self._tenants.of.values()):
                if tenant.classes is not None:
                    own = _choose(drawn, self._of_classes(tenant.classes), _CLASS_STREAM, seed)
                    code = np.where(drawn.tenant == number, own, code)
        elif by == "trace":
            code = self._by_trace(drawn)
        else:
            code = self._by_column(drawn, by, self.class_names, "class")
        return replace(drawn, class_code=code.astype(np.int8))

    def _of_classes(self, mix: dict[str, float]) -> NDArray[np.float64]:
        return np.array([mix.get(name, 0.0) for name in self.class_names])

    def codes(self, trace: Trace, rows: NDArray[np.bool_]) -> NDArray[np.int8]:
        """Return the classes of rows of a trace, as an episode of seed 0 would draw them."""
        if self._classes.by == "log-type":
            return trace.log_type[rows]
        none = np.zeros(int(rows.sum()), np.int32)
        as_drawn = EpisodeRequests(
            trace.arrival_s[rows], trace.prompt_tokens[rows], trace.output_tokens[rows], trace.log_type[rows],
            trace.model[rows], trace.session[rows], trace.turn[rows], none - 1, np.full(len(none), np.nan), none > 0,
            own_class=trace.own_class[rows], tenant=none - 1, names=trace.metadata,
        )  # fmt: skip
        return self._with_classes(as_drawn, 0).class_code

    # -- by columns ------------------------------------------------------------------------------------

    def _check_names(self, drawn: EpisodeRequests) -> None:
        """Raise if the trace has classes that a scenario of conversation and api does not know."""
        named = drawn.own_class >= 0
        if named.any():
            names = [drawn.names["classes"][code] for code in np.unique(drawn.own_class[named]).tolist()]
            unknown = [name for name in names if name not in CLASSES]
            if unknown:
                raise BurstenvError(
                    f"the trace has requests of class {unknown[0]!r}, scenario {self._scenario!r} has conversation and "
                    "api; a scenario with classes {by: trace} and objectives for each in slo plays them"
                )

    def _by_trace(self, drawn: EpisodeRequests) -> Integers:
        own = [*drawn.names.get("classes", ()), ""]
        texts = [own[code] or CLASSES[log] for code, log in zip(drawn.own_class, drawn.class_code, strict=True)]
        return self._numbered(texts, self.class_names, "class")

    def _by_column(self, drawn: EpisodeRequests, by: str, names: Sequence[str], kind: str) -> Integers:
        place = {
            "log-type": drawn.class_code,
            "model": drawn.model,
            "service": drawn.model * np.int8(len(CLASSES)) + drawn.class_code,
        }[by]
        found = np.unique(place).tolist()
        table = np.full(len(MODELS) * len(CLASSES), -1)
        table[found] = self._numbered([NAMES_BY[by][code] for code in found], names, kind)
        return table[place]

    def _numbered(self, texts: Sequence[str], names: Sequence[str], kind: str) -> Integers:
        known = {name: number for number, name in enumerate(names)}
        unknown = next((text for text in texts if text not in known), None)
        if unknown is not None:
            valid = ", ".join(list(known)[:20])
            raise BurstenvError(
                f"the trace has requests of {kind} {unknown!r}, which scenario {self._scenario!r} does not have; it "
                f"has {valid}"
            )
        return np.array([known[text] for text in texts], np.int32)

    # -- bursts ----------------------------------------------------------------------------------------

    def _thinned(self, drawn: EpisodeRequests, seed: int) -> EpisodeRequests:
        """Leave out requests of tenants with bursts where their rate is below that in a burst."""
        assert self._tenants is not None
        random = np.random.Generator(np.random.PCG64([_BURST_STREAM, int(seed)]))
        unit = _units(drawn)
        first_s = np.full(int(unit.max(initial=-1)) + 1, np.inf)
        np.minimum.at(first_s, unit, drawn.arrival_s)
        luck = random.random(len(first_s))
        keeps = np.ones(len(first_s), bool)
        tenant_of = np.zeros(len(first_s), np.int64)
        tenant_of[unit] = drawn.tenant
        for number, tenant in enumerate(self._tenants.of.values()):
            begin_s = random.random()
            if tenant.bursts is not None:
                bursts = tenant.bursts
                within_s = (first_s - begin_s * bursts.every_s) % bursts.every_s
                factor = np.where(within_s < bursts.for_s, bursts.factor, bursts.calm)
                keeps &= (tenant_of != number) | (luck < factor / bursts.factor)
        return _select(drawn, keeps[unit])


def _units(drawn: EpisodeRequests) -> Integers:
    """Return the number of what each request is drawn with: its session, or itself alone."""
    sessions = int(drawn.session.max(initial=-1)) + 1
    alone = drawn.session < 0
    return np.where(alone, sessions + np.cumsum(alone) - 1, drawn.session).astype(np.int64)


def _choose(drawn: EpisodeRequests, shares: NDArray[np.float64], stream: int, seed: int) -> Integers:
    """Return a choice by shares for each request, the same within a session."""
    unit = _units(drawn)
    luck = np.random.Generator(np.random.PCG64([stream, int(seed)])).random(int(unit.max(initial=-1)) + 1)
    limits = np.cumsum(shares)[:-1]
    return np.searchsorted(limits, luck, side="right").astype(np.int32)[unit]


def _select(drawn: EpisodeRequests, kept: NDArray[np.bool_]) -> EpisodeRequests:
    """Return some of the requests, whole sessions of them."""
    place = np.cumsum(kept) - 1
    previous = drawn.previous[kept]
    session = drawn.session[kept]
    _, numbered = np.unique(session[session >= 0], return_inverse=True)
    session[session >= 0] = numbered
    columns = {
        name: getattr(drawn, name)[kept]
        for name in (
            "arrival_s", "prompt_tokens", "output_tokens", "class_code", "model", "turn", "think_s", "upstream_failed",
            "priority", "prefix_id", "prefix_tokens", "own_class", "tenant",
        )
    }  # fmt: skip
    previous = np.where(previous >= 0, place[previous], -1).astype(np.int32)
    return replace(drawn, **columns, session=session, previous=previous)
