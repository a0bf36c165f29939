"""Where a real gateway in front of vLLM has each number of the observation from: one line for every feature.

Names are those of vLLM 0.33.0: Prometheus metrics (``/metrics``), KV events (``--kv-events-config``), headers.
"""

from __future__ import annotations

from burstenv.envs.observation import features
from burstenv.envs.observation.features import Feature

_COUNTED = "counted by the gateway as requests come"
_RELAYED = "counted by the gateway as it sends requests and relays answers"
_LIMITS = "labels of `vllm:cache_config_info`, `max_model_len` of `/v1/models`"
_LATENCY = "the latency entry of that GPU and model; no engine exports it"
_OWN = "computed by the gateway from the numbers it is made of"
_NOT_EXPORTED = "not exported by vLLM: use the log's"

GIVEN_BY = {
    "cluster.rate_fast": _COUNTED,
    "cluster.rate_slow": _COUNTED,
    "cluster.token_rate": _COUNTED,
    "cluster.api_share": _COUNTED,
    "cluster.kv_demand_mean": f"`vllm:kv_cache_usage_perc`; what the queue will take is {_NOT_EXPORTED}",
    "cluster.waiting_mean": "`vllm:num_requests_waiting`",
    "cluster.deferred": _COUNTED,
    "cluster.elapsed": "the gateway's clock",
    "cluster.metrics_age": "the gateway's clock",
    "cluster.count_1s": _COUNTED,
    "cluster.count_10s": _COUNTED,
    "cluster.count_60s": _COUNTED,
    "cluster.fano": _COUNTED,
    "cluster.gap_cv": _COUNTED,
    "request.present": "the request",
    "request.prompt": "the request, by the model's tokenizer",
    "request.predicted_output": "a predictor in the gateway; `max_tokens` is only a bound",
    "request.is_api": "a request header, such as `x-gateway-inference-objective` of llm-d",
    "request.ttft_slo": "a request header, such as `x-slo-ttft-ms` of llm-d",
    "request.tpot_slo": "a request header, such as `x-slo-tpot-ms` of llm-d",
    "request.ttft_left": "the gateway's clock",
    "request.value": "the gateway's configuration",
    "request.may_defer": "the gateway's configuration",
    "request.turn": "the header `X-Session-ID`",
    "request.previous_settled": _RELAYED,
    "request.since_previous": _RELAYED,
    "replica.fits": _LIMITS,
    "replica.waiting": "`vllm:num_requests_waiting`",
    "replica.running": "`vllm:num_requests_running`",
    "replica.kv_used": "`vllm:kv_cache_usage_perc`",
    "replica.kv_demand": f"`vllm:kv_cache_usage_perc`; what the queue will take is {_NOT_EXPORTED}",
    "replica.kv_demand_with": _OWN,
    "replica.prefill_backlog": f"{_NOT_EXPORTED} `unanswered_tokens`",
    "replica.decode_context": f"{_NOT_EXPORTED} `streaming_context`, or KV use x capacity",
    "replica.tpot_ratio": _OWN,
    "replica.ttft_ratio": _OWN,
    "replica.prefill_speed": _LATENCY,
    "replica.decode_floor": _LATENCY,
    "replica.kv_capacity": _LIMITS,
    "replica.preemptions": "`vllm:num_preemptions_total`",
    "replica.in_flight": _RELAYED,
    "replica.unanswered": _RELAYED,
    "replica.unanswered_tokens": _RELAYED,
    "replica.streaming": _RELAYED,
    "replica.streaming_context": _RELAYED,
    "replica.recent_ttft": _RELAYED,
    "replica.recent_tpot": _RELAYED,
    "replica.since_sent": _RELAYED,
    "replica.log_kv_demand": _OWN,
    "replica.log_kv_demand_with": _OWN,
    "replica.log_tpot_ratio": _OWN,
    "replica.log_ttft_ratio": _OWN,
    "replica.prefix_hit": "KV events (`BlockStored`, `BlockRemoved`), or the gateway's own table of prefixes",
    "replica.prefix_share": "KV events (`BlockStored`, `BlockRemoved`), or the gateway's own table of prefixes",
    "replica.had_previous": _RELAYED,
    "replica.mode": "the gateway's own orders; a stock engine has one mode, a scheduler class of one's own has several",
}


def every_feature() -> dict[str, Feature]:
    """Return the features of all groups by their full names, ``replica.mode`` apart."""
    groups = {
        "cluster": features.CLUSTER_FEATURES + features.STALE_FEATURES + features.FORECAST_FEATURES,
        "request": features.REQUEST_FEATURES + features.SESSION_REQUEST_FEATURES,
        "replica": features.REPLICA_FEATURES + features.LOG_REPLICA_FEATURES + features.SESSION_REPLICA_FEATURES,
    }
    return {f"{group}.{feature.name}": feature for group, found in groups.items() for feature in found}


def table() -> str:
    """Return the features with their sources, here and in front of real engines, as a Markdown table."""
    rows = [f"| `{name}` | {f.source} | {GIVEN_BY[name]} |" for name, f in every_feature().items()]
    rows.append(f"| `replica.mode` | {features.KNOWN} | {GIVEN_BY['replica.mode']} |")
    return "\n".join(["| feature | source | in front of vLLM |", "|---|---|---|", *rows])


_PAGE = """\
# What a gateway knows

Made by `python -m burstenv.envs.observation.sources > docs/gateway.md`; do not edit.

A gateway decides by four kinds of knowledge. Agents and heuristics have the same, and a replay (`burstenv
simulate`), an evaluation and an environment show it alike.

1. **Its own log**, always fresh. What it sent where and when, and, because answers pass through it, every first
   token, token and end (`burstenv/cluster/gateway_log.py`). Of each replica it knows the requests in flight, the
   prompts without a first token, the sequences that stream and their context, the recent TTFT and time per output
   token, and when it last sent something there. It cannot see a preemption: a preempted request counts as
   streaming.
2. **The engines' metrics**, scraped every `scrape_period_s` and `delay_s` late.
3. **KV events**: the blocks that an engine has cached, as of the end of its last step.
4. **Deployment facts** (hardware, model, limits), and *predicted* output lengths.

```yaml
observation:
  log: true              # decisions see the gateway's own log; false: the metrics are all they have
  relays: true           # false: a balancer that sees what it sent and which connections closed, no token
  scrape_period_s: 0.1   # metrics are read every 0.1 s ...
  delay_s: 0.05          # ... and seen 0.05 s later
```

A balancer that does not relay answers (`relays: false`) knows of a request only that it is under way. It counts
every request in flight as streaming, with its prompt as the context; it has no unanswered prompts and no averages.

The recent TTFT and time per token are means in which events count less the older they are: from one event to the
next, `dt` later, all earlier weights fall by 10 / (10 + dt) with `dt` in seconds.

`count_sent` makes the *metrics* those of vLLM's data-parallel balancer, which adds its own sends to the counts it
has read. A gateway with a log has no use for it.

## Several gateways

```yaml
gateways: 4
split: hash              # of requests: evenly, in turn, or by a hash of the session (of the request without one)
observation: {log: true, scrape_period_s: 0.1, delay_s: 0.05, count_sent: false}
```

Each gateway has its own log, its own traffic and deferred requests, and its own memory of rules (the turn in round
robin, the token bucket, the limit of `aimd`). None sees what another one sends: the metrics, which all of them read,
are all they know of each other. `BurstGPT-v0` serves their decisions in order of time, each with the view of the
gateway that decides (`info["gateway"]`): one policy acts for all. At a tick the first gateway decides.
`burstenv.pettingzoo` has them as agents, one after the other (`env`) or all at every decision (`parallel_env`), paid
alike; `examples/pettingzoo_gateways.py` trains two. `observation.forecast` and `count_sent` are those of one gateway,
and an error with several; so are `BurstGPT-Interval-v0` and `-Iteration-v0`.

## Which source a rule reads

Every rule that reads load has a parameter `source`, such as `always/jsq(source=both)/vllm`:

| source | the load of a replica |
|---|---|
| `auto` | the default: `log` where the scenario has one, otherwise `metrics` |
| `log` | the gateway's own log; KV use and the progress of prompts are estimates (`burstenv/policies/known_load.py`) |
| `metrics` | the metrics as they were read |
| `both` | the metrics, plus what has changed in the log since they were read |

`burstenv tune` chooses among the last three where the scenario has a log. In a scenario without one, a rule that
asks for it is an error. A heuristic in Python has the metrics as `replica.waiting`, `replica.kv_demand` and so on,
and the others as `replica.log` and `replica.both`, with the same names (`replica.log.kv_demand`); `replica.log`
also has `in_flight`, `unanswered`, `streaming`, `recent_ttft_s`, `recent_tpot_s` and `since_sent_s`.

## Every number of the observation, and what gives it

"""


def document() -> str:
    """Return docs/gateway.md."""
    return _PAGE + table() + "\n"


if __name__ == "__main__":
    print(document(), end="")
