"""The wire of gradwire: the generated messages in `v1`, and the codec between them and the values of the core.

Modules here import protobuf, google.rpc and `gradwire_core`, never gRPC; only the generated `v1/*_pb2_grpc.py` do.
"""

API_VERSION = "1.5"
"""The version of the interface: "1." and the number of additions to gradwire.v1 since its first version."""
