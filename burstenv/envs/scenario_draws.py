"""What a scenario draws from its trace: the requests of an episode, output lengths, clients, faults and tenants."""

from __future__ import annotations

import contextlib
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import array, checked, number, one_of
from burstenv.cluster import REQUEST, Clients, ReplicaSpec, draw_clients
from burstenv.cluster.faults.config import FaultsConfig
from burstenv.cluster.faults.draw import FailedRows, draw_faults
from burstenv.cluster.faults.rows import Faults
from burstenv.cluster.output_lengths import LengthModel
from burstenv.envs.population.population import Population
from burstenv.envs.predictors import LengthPredictor
from burstenv.envs.recorded import same_requests
from burstenv.envs.requests import Terms, write_requests
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload import SPLITS, DayRange, EpisodeRequests, EpisodeSampler, Trace, split_for_episodes
from burstenv.workload.splits import DEFAULT_FRACTIONS
from burstenv.workload.trace import MODELS
from burstenv.workload.workload_config import WorkloadConfig, load_trace


class Draws:
    """The part of :class:`burstenv.envs.scenario.Scenario` that draws episodes."""

    config: ScenarioConfig
    specs: tuple[ReplicaSpec, ...]
    population: Population
    faults: FaultsConfig | None
    workload: WorkloadConfig
    _terms: Terms

    @cached_property
    def trace(self) -> Trace:
        """The source trace of the episodes."""
        return load_trace(self.workload)

    @cached_property
    def _days(self) -> dict[str, DayRange]:
        workload = self.workload
        return split_for_episodes(self.trace, workload.fractions, workload.skip_ramp_up_days, self.config.episode)

    @cached_property
    def samplers(self) -> dict[str, EpisodeSampler]:
        """The sampler of each split's episodes."""
        episode = self.config.episode
        self.population.see(self.trace)
        return {split: EpisodeSampler(self.trace, self._days[split], episode, split=split) for split in SPLITS}

    @checked()
    def predictor_on(self, trace: Trace) -> LengthPredictor:
        """Return the predictor of output lengths for a trace that is played here as it was recorded.

        One that learns has seen the training split of that trace, as the scenario on the trace (``trace=``) has; all of
        a trace that is too short to be split.
        """
        if not self.config.predictor.learns or same_requests(trace, self.trace):
            return self.predictor
        output, code = trace.output_tokens, self.population.codes(trace, np.ones(len(trace), bool))
        with contextlib.suppress(BurstenvError):
            days = split_for_episodes(trace, DEFAULT_FRACTIONS, 0, self.config.episode)["train"]
            train = (trace.arrival_s >= days.start_s) & (trace.arrival_s < days.end_s)
            output, code = output[train], code[train]
        return LengthPredictor.fitted(self.config.predictor, output, code, len(self.config.class_names))

    @cached_property
    def _training(self) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
        """Output lengths and classes of the training split."""
        days = self._days["train"]
        train = (self.trace.arrival_s >= days.start_s) & (self.trace.arrival_s < days.end_s)
        return self.trace.output_tokens[train], self.population.codes(self.trace, train)

    @cached_property
    def predictor(self) -> LengthPredictor:
        """The predictor of output lengths."""
        config = self.config.predictor
        nothing = np.zeros(0, np.int32), np.zeros(0, np.int8)
        seen = self._training if config.learns else nothing
        return LengthPredictor.fitted(config, *seen, len(self.config.class_names))

    @cached_property
    def length_model(self) -> LengthModel:
        """The distribution of output lengths given their predictions: see cluster/output_lengths.py."""
        output, code = self._training
        predictor, config = self.predictor, self.config.predictor
        return LengthModel.of(
            config.kind,
            [output[code == k] if (code == k).any() else output for k in range(len(self.config.class_names))],
            config.sigma,
            config.accuracy,
            np.asarray(config.edges_tokens, np.float64),
            predictor.bucket_mean,
        )

    def lengths(self) -> LengthModel:
        """Return :attr:`length_model` on demand: making it reads the trace."""
        return self.length_model

    @checked(split=one_of(*SPLITS))
    def sampler(self, split: str) -> EpisodeSampler:
        """Return the episode sampler of a split."""
        if split not in self.samplers:
            raise unknown_name("split", split, SPLITS)
        return self.samplers[split]

    def draw(self, split: str, seed: int, rate_per_s: float) -> EpisodeRequests:
        """Draw the requests of an episode of a split, with the classes and tenants of the scenario."""
        return self.population.draw(self.sampler(split), seed, rate_per_s)

    @checked(rate_per_s=number(above=0.0))
    def episode(
        self, split: str, seed: int, rate_per_s: float, privileged: bool = False
    ) -> tuple[np.ndarray, EpisodeRequests]:
        """Draw an episode.

        Args:
            split: ``train``, ``validation`` or ``test``.
            seed: At least 0; fixes the day, the requests and the length predictions.
            rate_per_s: Mean arrival rate [requests/s].
            privileged: Predict output lengths exactly.

        Returns:
            The requests in the engine's format, (n,) REQUEST, and as drawn.
        """
        drawn = self.draw(split, seed, rate_per_s)
        return self.requests_from(drawn, seed, privileged), drawn

    @checked(requests=array(REQUEST, dimensions=1))
    def clients_of(self, requests: np.ndarray, drawn: EpisodeRequests, seed: int) -> Clients | None:
        """Return the clients' behaviour in an episode, to be loaded with it; None if they only send and wait.

        Args:
            requests: (n,) REQUEST, as returned by :meth:`episode`.
            drawn: The same requests, as drawn.
            seed: Of the episode.
        """
        config = self.config.acting_clients
        if config is None:
            return None
        horizon_s = float(drawn.metadata.get("duration_s", np.inf))
        return draw_clients(config, requests, seed, drawn.previous, drawn.think_s, drawn.upstream_failed, horizon_s)

    @checked()
    def faults_of(self, drawn: EpisodeRequests, seed: int) -> Faults | None:
        """Return how replicas fail in an episode, to be loaded with it; None if they serve for ever.

        Args:
            drawn: The requests, as drawn.
            seed: Of the episode.
        """
        if self.faults is None:
            return None
        last_s = float(drawn.arrival_s[-1]) if len(drawn) else 0.0
        failed = None
        if self.config.episode.upstream_failures == "recorded" and "day" in drawn.metadata:
            rows = np.flatnonzero(drawn.upstream_failed)
            models, classes = drawn.model[rows].tolist(), drawn.class_code[rows].tolist()
            names = self.config.class_names
            failed = FailedRows(drawn.arrival_s[rows], [MODELS[k] for k in models], [names[k] for k in classes])
        return draw_faults(self.faults, self.specs, float(drawn.metadata.get("duration_s", last_s)), seed, failed)

    def tenants_of(self, drawn: EpisodeRequests) -> NDArray[np.int32] | None:
        """Return the tenant of each request of an episode, to be loaded with it; None where there are none."""
        return drawn.tenant if self.population.tenant_names else None

    @checked()
    def requests_from(self, drawn: EpisodeRequests, seed: int, privileged: bool = False) -> np.ndarray:
        """Add objectives, worth and length predictions to drawn requests; returns (n,) REQUEST."""
        requests = np.zeros(len(drawn), REQUEST)
        self.write_requests(requests, drawn, seed, privileged)
        return requests

    @checked(requests=array(REQUEST, dimensions=1))
    def write_requests(
        self,
        requests: np.ndarray,
        drawn: EpisodeRequests,
        seed: int,
        privileged: bool = False,
        predictor: LengthPredictor | None = None,
    ) -> None:
        """Write drawn requests with objectives, worth and length predictions into ``requests``, (n,) REQUEST.

        Predictions are those of ``predictor``, by default the scenario's own.
        """
        if privileged:
            predicted = np.maximum(1.0, drawn.output_tokens)
        else:
            predictor = self.predictor if predictor is None else predictor
            predicted = predictor.predict(drawn.output_tokens, drawn.class_code, seed)
        write_requests(requests, drawn, predicted, self._terms)
