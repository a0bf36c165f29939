"""A policy as the endpoint picker of an Envoy gateway: ``pip install grpcio xds-protos``.

    python examples/endpoint_picker.py always/jsq/vllm mixed-x2 127.0.0.1:8101 127.0.0.1:8102

Envoy's ``ext_proc`` filter asks it on port 9002, with ``request_body_mode`` and ``response_body_mode``
FULL_DUPLEX_STREAMED; an ORIGINAL_DST cluster with ``http_header_name: x-gateway-destination-endpoint`` follows it.
"""

import asyncio
import sys

from burstenv.gateway.plugins.advisor import Advisor
from burstenv.gateway.plugins.endpoint_picker import EndpointPicker, serve


async def main(policy: str, cluster: str, *endpoints: str) -> None:
    """Serve a picker until it is stopped."""
    picker = EndpointPicker(Advisor(policy, cluster), endpoints)
    server, port = await serve(picker, "127.0.0.1:9002")
    print(f"{policy} picks among {', '.join(endpoints)} on port {port}")
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
