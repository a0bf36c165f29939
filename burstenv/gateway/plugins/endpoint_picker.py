"""An endpoint picker for the Gateway API: Envoy asks it over ``ext_proc`` (gRPC) which engine gets a request.

Both bodies must be FULL_DUPLEX_STREAMED in Envoy's configuration: the picker reads the prompt, holds a deferred request
back, and sees every part of the answer, which is how it knows what is under way. The choice goes into the header
``x-gateway-destination-endpoint``, which an ORIGINAL_DST cluster follows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from envoy.service.ext_proc.v3.external_processor_pb2_grpc import (
    ExternalProcessorServicer,
    add_ExternalProcessorServicer_to_server,
)
from envoy.type.v3.http_status_pb2 import HttpStatus

from burstenv.gateway.answers import error_body
from burstenv.gateway.incoming import CHAT, BadRequest
from burstenv.gateway.plugins.advisor import Advice, Advisor

DESTINATION = "x-gateway-destination-endpoint"
RETRY_AFTER_S = "1"


class EndpointPicker(ExternalProcessorServicer):
    """Answers Envoy.

    Args:
        advisor: The policy.
        endpoints: ``address:port`` of each replica, in the order of the cluster.
    """

    def __init__(self, advisor: Advisor, endpoints: Sequence[str]):
        self._advisor = advisor
        self._endpoints = list(endpoints)

    async def Process(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answer the messages of one HTTP request."""
        advice: Advice | None = None
        headers: dict[str, str] = {}
        body, whole = b"", False
        try:
            async for message in request_iterator:
                kind = message.WhichOneof("request")
                if kind == "request_headers":
                    headers = _headers(message.request_headers)
                    if message.request_headers.end_of_stream:  # no prompt: not for a policy
                        yield pb.ProcessingResponse(request_headers=pb.HeadersResponse())
                elif kind == "request_body":
                    body += message.request_body.body
                    if not message.request_body.end_of_stream:
                        continue
                    try:
                        chat = headers.get(":path", CHAT).startswith(CHAT)
                        advice = self._advisor.ask(self._advisor.read(body, headers, chat))
                    except BadRequest as error:
                        yield _immediate(error.status, str(error), error.kind)
                        continue
                    while advice.admission == "defer":
                        await asyncio.sleep(self._advisor.world.scenario.config.defer_s)
                        self._advisor.again(advice)
                    for answer in self._answers(advice, body):
                        yield answer
                elif kind == "response_headers":
                    yield pb.ProcessingResponse(response_headers=pb.HeadersResponse())
                elif kind == "response_body":
                    part = message.response_body
                    if advice is not None:
                        advice.chunk(part.body)
                        whole = whole or part.end_of_stream
                    yield pb.ProcessingResponse(response_body=_passed_on(part.body, part.end_of_stream))
                elif kind == "request_trailers":
                    yield pb.ProcessingResponse(request_trailers=pb.TrailersResponse())
                elif kind == "response_trailers":
                    whole = True
                    yield pb.ProcessingResponse(response_trailers=pb.TrailersResponse())
        finally:
            if advice is not None:
                advice.end(whole)

    def _answers(self, advice: Advice, body: bytes) -> Iterator[Any]:
        """Return what Envoy is told about a request and its body."""
        if advice.admission == "reject":
            yield _immediate(429, "the policy rejected the request; try again later", "rate_limit_error")
            return
        header = HeaderValue(key=DESTINATION, raw_value=self._endpoints[advice.replica].encode())
        change = pb.HeaderMutation(set_headers=[HeaderValueOption(header=header)])
        common = pb.CommonResponse(header_mutation=change, clear_route_cache=True)
        yield pb.ProcessingResponse(request_headers=pb.HeadersResponse(response=common))
        yield pb.ProcessingResponse(request_body=_passed_on(body, True))


def _headers(told: Any) -> dict[str, str]:
    return {h.key.lower(): h.value or h.raw_value.decode("latin-1") for h in told.headers.headers}


def _passed_on(body: bytes, last: bool) -> Any:
    """Return a part of a body as it came."""
    streamed = pb.StreamedBodyResponse(body=body, end_of_stream=last)
    return pb.BodyResponse(response=pb.CommonResponse(body_mutation=pb.BodyMutation(streamed_response=streamed)))


def _immediate(status: int, message: str, kind: str) -> Any:
    """Return an answer in OpenAI's form that the client gets at once."""
    set_headers = [HeaderValueOption(header=HeaderValue(key="content-type", raw_value=b"application/json"))]
    if status == 429:
        set_headers.append(HeaderValueOption(header=HeaderValue(key="retry-after", raw_value=RETRY_AFTER_S.encode())))
    return pb.ProcessingResponse(
        immediate_response=pb.ImmediateResponse(
            status=HttpStatus(code=status),
            headers=pb.HeaderMutation(set_headers=set_headers),
            body=json.dumps(error_body(status, message, kind)).encode(),
        )
    )


async def serve(picker: EndpointPicker, address: str = "127.0.0.1:9002") -> Any:
    """Start a gRPC server with a picker on an address, port 0 for any; return (server, port)."""
    server = grpc.aio.server()
    add_ExternalProcessorServicer_to_server(picker, server)
    port = server.add_insecure_port(address)
    await server.start()
    return server, port
