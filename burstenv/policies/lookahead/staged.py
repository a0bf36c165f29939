"""Causal look-ahead in stages, for a base that is no composite and plays between them.

The stages are those of ``kernels.look_ahead``: note the present, sample futures, set up the trial of a choice in one of
them, take its value, choose. The base makes its own decision, and plays each trial to its end.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import entry
from burstenv.cluster.clock import begin
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.cluster.world import world_of
from burstenv.policies.lookahead.clone import Copies, copy_cluster
from burstenv.policies.lookahead.kernels import best_by_moments, imagine_all, list_trials, take_value
from burstenv.policies.lookahead.playing import Lookahead
from burstenv.policies.lookahead.search import Bench, opened
from burstenv.policies.lookahead.stale_metrics import begin_notes, note_epoch
from burstenv.policies.lookahead.steps import carry_out, code_of, decision_of, go_on
from burstenv.policies.lookahead.trials import choice_of, earned, first_needed, first_open, lost_count
from burstenv.policies.python_policy import Decision

Play = Callable[[Copies, int], None]  # plays a cluster of copies to its end


@entry
def _note(given):
    """Note the present epoch, for readings to come; return the number of the first request that a copy needs."""
    search = opened(given)
    world = world_of(search.source, search.i)
    begin(world, False)
    for c in range(len(search.values)):
        search.values[c] = np.nan
    low = first_needed(world, first_open(world, 0))
    if world.gateway.scrape_period_s > 0.0:
        if world.environment.decisions == 0:
            begin_notes(search.notes, search.plan)
        note_epoch(search, low)
    return low


@entry
def _imagine(given, low, own, replica):
    """Sample all futures and list the trials beside choice ``own``; return the number of their first request, or -1.

    With -1 the base decides. ``low`` comes from :func:`_note`, ``replica`` is that of the base's own decision.
    """
    search = opened(given)
    low = imagine_all(search, low)
    if low >= 0:
        list_trials(search, own, replica)
    return low


@entry
def _begin(bench, future, low, high, admission, replica, mode, out):
    """Carry out a decision in a copy of a future, the last cluster of the scratch, and go on to the next epoch.

    Writes the reward and the number of lost requests so far into ``out``, (2,) float64.
    """
    scratch, trial = bench.scratch, len(bench.scratch.environments) - 1
    copy_cluster(scratch, future, scratch, trial, low, high)
    world = world_of(scratch, trial)
    out[0] = earned(world, bench.reward)
    out[1] = lost_count(world.environment)
    carry_out(world, code_of(admission, replica, mode))
    go_on(world, False)


@entry
def _end(bench, out):
    """Replace the reward and the number of lost requests before a trial, (2,), by those of the trial."""
    world = world_of(bench.scratch, len(bench.scratch.environments) - 1)
    out[0] = earned(world, bench.reward) - out[0]
    out[1] = lost_count(world.environment) - out[1]


def tried(bench: Bench, future: int, span: tuple[int, int], decision: Decision, play: Play) -> tuple[float, float]:
    """Return a future's reward after a decision that ``play`` goes on from, and its number of lost requests.

    Args:
        bench: Bench.
        future: Index of the future in its scratch.
        span: Number of the future's first request that is not over, and that after its last.
        decision: The decision.
        play: All later ones.
    """
    out = np.zeros(2)
    _begin(bench, future, *span, *decision, out)
    play(bench.scratch, len(bench.scratch.environments) - 1)
    _end(bench, out)
    return float(out[0]), float(out[1])


@entry
def _choose(given, found, out):
    """Replace the base's own decision, (3,), by a better one.

    ``found`` are the values of the choices in each future, (F, 1 + R), NaN for a choice without trials.
    """
    search = opened(given)
    base = code_of(out[0], out[1], out[2])
    own, total = choice_of(base), 0.0
    for future in range(found.shape[0]):
        search.owns[future] = found[future, own]
        total += search.owns[future]
    search.values[own] = total / found.shape[0]
    for future in range(found.shape[0]):
        for c in range(found.shape[1]):
            if c != own and not np.isnan(found[future, c]):
                take_value(search, c, future, found[future, c])
    out[0], out[1], out[2] = decision_of(best_by_moments(search, base))


@entry
def _code_of(admission, replica, mode):
    """Return a decision as plans hold it."""
    return code_of(admission, replica, mode)


class StagedLookahead(Lookahead):
    """Causal look-ahead for another base than the composite of its policy; see :class:`Lookahead`.

    The composite decides only where a sampled past holds a request that the true past did not.
    """

    @property
    def longest(self) -> int:
        """Number of requests that a trial has room for."""
        return int(self._scratch.requests.shape[1])

    def note(self, i: int) -> int:
        """Note the present epoch of cluster ``i``, before the base decides; return where copies begin.

        Call it once at every epoch, ticks included: with stale metrics later searches start from here.
        """
        return int(_note(self._search(i)))

    def better(self, i: int, low: int, own: Decision, play: Play) -> Decision:
        """Return the best decision about the request at the gateway of cluster ``i``.

        Args:
            i: Index of the cluster, at a decision epoch with a request at the gateway.
            low: Returned by :meth:`note` at this epoch.
            own: The base's own decision.
            play: The base.
        """
        search, (admission, replica, mode) = self._search(i), own
        bench = Bench(self._scratch, self._trial, self._settings[0]["reward"])
        choice = 0 if admission == REJECT else 1 + replica
        low = int(_imagine(search, low, choice, replica))
        chosen = own
        if low >= 0:
            found = np.full((len(self._ends), self.values.shape[1]), np.nan)
            if self._try(bench, found[:, choice], low, own, play):
                for c in [0, *(1 + np.flatnonzero(self._shortlist)).tolist()]:
                    if c != choice:
                        other = (ADMIT, c - 1, mode) if c else (REJECT, replica, mode)
                        self._try(bench, found[:, c], low, other, play)
                out = np.array(own, np.int64)
                _choose(search, found, out)
                admission, replica, mode = out.tolist()
                chosen = admission, replica, mode
        self.decisions[i] = chosen
        if self._stale:
            number = int(self._cluster.state.environments["at_gateway"][i])
            self._plans[i, number] = _code_of(*chosen)
        return chosen

    def _try(self, bench: Bench, found: NDArray[np.float64], low: int, decision: Decision, play: Play) -> bool:
        """Write the values of a decision in all futures, (F,); return whether any of them lost a request."""
        lost = 0.0
        for future, high in enumerate(self._ends.tolist()):
            found[future], more = tried(bench, future, (low, high), decision, play)
            lost += more
        return lost > 0.0
