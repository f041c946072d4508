"""The gradwire server: a gRPC front end over a pool of worker processes. Importing this package imports nothing else."""
