"""The load harness of gradwire: it sends a mix of requests on a schedule and reports how they were answered."""
