"""Policies in other routers: the same decisions and the same log as in ``burstenv serve``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("prometheus_client")

from burstenv.gateway.plugins.advisor import Advisor

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "a b c d"}], "max_tokens": 9}
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'


def _idle(advisor: Advisor) -> bool:
    return all(
        ledger.in_flight == ledger.unanswered_tokens == ledger.context_tokens == 0 for ledger in advisor.world.ledgers
    )


def test_an_advisor_keeps_the_gateways_log() -> None:
    advisor = Advisor("always/jsq/vllm", "mixed-x2")
    incoming = advisor.read(json.dumps(BODY).encode(), {"x-slo-ttft-ms": "1e6", "x-slo-tpot-ms": "1e6"})
    first, second = advisor.ask(incoming), advisor.ask(incoming)
    assert {first.replica, second.replica} == {0, 1}  # the second goes where the first is not
    first.chunk(EVENT * 3)  # the role and two tokens
    ledger = advisor.world.ledgers[first.replica]
    assert (ledger.decoding, ledger.unanswered, ledger.context_tokens) == (1, 0, incoming.prompt_tokens + 2)
    second.tokens(4)
    first.end()
    first.end()
    second.end(whole=False)
    assert _idle(advisor)
    environment = advisor.world.cluster.state.environments[0]
    assert [int(environment[name]) for name in ("offered", "attained", "failed")] == [2, 1, 1]


def test_an_advisor_rejects_and_avoids_replicas_that_are_out() -> None:
    advisor = Advisor("never/jsq/vllm", "mixed-x2")
    incoming = advisor.read(json.dumps(BODY).encode())
    assert advisor.ask(incoming).admission == "reject"
    advisor = Advisor("always/round-robin/vllm", "mixed-x2")
    advisor.set_available(0, False)
    taken = [advisor.ask(incoming) for _ in range(4)]
    assert {advice.replica for advice in taken} == {1}
    advisor.set_available(1, False)
    assert advisor.ask(incoming).admission == "reject"
    for advice in taken:
        advice.end()
    assert _idle(advisor)


def _pick(policy: str, *messages: Any) -> tuple[list[Any], Advisor]:
    """Return a picker's answers to Envoy's messages, sent over a real connection."""
    import grpc
    from envoy.service.ext_proc.v3.external_processor_pb2_grpc import ExternalProcessorStub

    from burstenv.gateway.plugins.endpoint_picker import EndpointPicker, serve

    advisor = Advisor(policy, "mixed-x2")

    async def test() -> list[Any]:
        server, port = await serve(EndpointPicker(advisor, ["127.0.0.1:8101", "127.0.0.1:8102"]), "127.0.0.1:0")

        async def said() -> AsyncIterator[Any]:
            for message in messages:
                yield message

        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            answers = [answer async for answer in ExternalProcessorStub(channel).Process(said())]
        await server.stop(None)
        return answers

    return asyncio.run(asyncio.wait_for(test(), 120.0)), advisor


def test_an_endpoint_picker_routes_and_follows_the_answer() -> None:
    pytest.importorskip("grpc")
    pytest.importorskip("envoy.service.ext_proc.v3.external_processor_pb2")
    from envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue
    from envoy.service.ext_proc.v3 import external_processor_pb2 as pb

    body = json.dumps(BODY).encode()
    path = HeaderMap(headers=[HeaderValue(key=":path", raw_value=b"/v1/chat/completions")])
    request = [
        pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=path)),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=body[:20])),
        pb.ProcessingRequest(request_body=pb.HttpBody(body=body[20:], end_of_stream=True)),
    ]
    answer = [
        pb.ProcessingRequest(response_headers=pb.HttpHeaders()),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=EVENT * 3)),
        pb.ProcessingRequest(response_body=pb.HttpBody(body=b"data: [DONE]\n\n", end_of_stream=True)),
    ]
    told, advisor = _pick("always/round-robin/vllm", *request, *answer)
    assert [message.WhichOneof("response") for message in told] == [
        "request_headers", "request_body", "response_headers", "response_body", "response_body",
    ]  # fmt: skip
    header = told[0].request_headers.response.header_mutation.set_headers[0].header
    assert (header.key, header.raw_value) == ("x-gateway-destination-endpoint", b"127.0.0.1:8101")
    parts = [told[k].request_body if k == 1 else told[k].response_body for k in (1, 3, 4)]
    streamed = [part.response.body_mutation.streamed_response for part in parts]
    assert [part.body for part in streamed] == [body, EVENT * 3, b"data: [DONE]\n\n"]
    assert _idle(advisor)
    assert int(advisor.world.cluster.state.environments["attained"][0]) == 1

    told, advisor = _pick("never/jsq/vllm", *request)
    assert [message.WhichOneof("response") for message in told] == ["immediate_response"]
    assert told[0].immediate_response.status.code == 429
    assert json.loads(told[0].immediate_response.body)["error"]["type"] == "rate_limit_error"
    told, advisor = _pick(
        "always/jsq/vllm", request[0], pb.ProcessingRequest(request_body=pb.HttpBody(body=b"{", end_of_stream=True))
    )
    assert told[0].immediate_response.status.code == 400

    told, advisor = _pick("always/jsq/vllm", *request, answer[0])  # the client leaves in the middle
    assert _idle(advisor)
    assert int(advisor.world.cluster.state.environments["failed"][0]) == 1


def test_a_policy_routes_litellms_requests() -> None:
    litellm = pytest.importorskip("litellm")
    from burstenv.gateway.plugins.litellm_router import PolicyStrategy

    deployments = [
        {
            "model_name": "tiny",
            "litellm_params": {"model": "openai/tiny", "api_key": "x", "mock_response": f"replica {r}"},
            "model_info": {"id": str(r)},
        }
        for r in range(2)
    ]

    async def ask(router: Any) -> str:
        answer = await router.acompletion(model="tiny", messages=BODY["messages"])
        return str(answer.choices[0].message.content)

    async def test() -> None:
        advisor, router = Advisor("always/round-robin/vllm", "mixed-x2"), litellm.Router(model_list=deployments)
        PolicyStrategy(advisor, deployments).install(router)
        assert [await ask(router) for _ in range(4)] == ["replica 0", "replica 1"] * 2
        for _ in range(200):
            if _idle(advisor):
                break
            await asyncio.sleep(0.02)  # LiteLLM reports ends in the background
        assert _idle(advisor)
        rejecting = litellm.Router(model_list=deployments, num_retries=0)
        PolicyStrategy(Advisor("never/jsq/vllm", "mixed-x2"), deployments).install(rejecting)
        with pytest.raises(litellm.RateLimitError):
            await ask(rejecting)

    asyncio.run(asyncio.wait_for(test(), 300.0))


def test_a_policy_routes_the_requests_of_a_ray_serve_deployment() -> None:
    serve = pytest.importorskip("ray.serve")
    import ray
    from ray.serve.config import RequestRouterConfig
    from ray.serve.exceptions import BackPressureError

    router = "burstenv.gateway.plugins.ray_router:PolicyRouter"

    @serve.deployment(num_replicas=2, max_ongoing_requests=20)
    class Model:
        def __init__(self) -> None:
            self.replica = serve.get_replica_context().replica_tag

        async def chat(self, asked: dict[str, Any]) -> str:
            await asyncio.sleep(0.2 if asked["max_tokens"] == 9 else 0.0)
            return str(self.replica)

    def deployed(name: str, policy: str) -> Any:
        config = RequestRouterConfig(
            request_router_class=router, request_router_kwargs={"policy": policy, "cluster": "mixed-x2"}
        )
        options = {"request_router_config": config, "ray_actor_options": {"num_cpus": 0}}
        return serve.run(Model.options(**options).bind(), name=name, route_prefix=None).chat

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        chat = deployed("turns", "always/round-robin/vllm")
        told = [chat.remote({**BODY, "max_tokens": 1}).result(timeout_s=300) for _ in range(6)]
        assert told[:2] * 3 == told
        assert told[0] != told[1]
        chat = deployed("emptiest", "always/jsq/vllm")
        chat.remote({**BODY, "max_tokens": 1}).result(timeout_s=300)
        at_once = [chat.remote(BODY) for _ in range(8)]
        told = [answer.result(timeout_s=300) for answer in at_once]
        assert sorted(told.count(name) for name in set(told)) == [4, 4]  # never one more on either
        with pytest.raises(BackPressureError):
            deployed("none", "never/jsq/vllm").remote(BODY).result(timeout_s=300)
    finally:
        serve.shutdown()
        ray.shutdown()
