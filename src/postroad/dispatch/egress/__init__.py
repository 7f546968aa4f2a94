"""The HTTP/1.1 client that carries messages to their destinations."""

from postroad.dispatch.egress.client import Egress
from postroad.dispatch.egress.request import OutgoingRequest
from postroad.dispatch.egress.tls import tls_context

__all__ = ["Egress", "OutgoingRequest", "tls_context"]
