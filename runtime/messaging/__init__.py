"""INS1 over ZeroMQ: the publisher of a line and a subscriber. docs/protocol.md is normative."""

from .link import Link, local_endpoint
from .publisher import CameraStream, Publisher, Sent
from .requester import Requester
from .subscriber import Silence, Subscriber

__all__ = ["CameraStream", "Link", "Publisher", "Requester", "Sent", "Silence", "Subscriber", "local_endpoint"]
