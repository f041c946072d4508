"""Modules generated from proto/gradwire/v1 by `python -m gradwire_proto`; only this file is written by hand."""
