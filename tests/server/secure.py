"""Authorities and certificates made for a test, as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme


@dataclass
class Authority:
    """A certificate authority whose files lie in a folder."""

    folder: Path

    def __post_init__(self):
        self._ca = trustme.CA()
        self.folder.mkdir(exist_ok=True)
        self.ca_file = str(self.folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_file)

    def issue(self, name, *, as_files=None, common_name=None):
        """Make a certificate for a name; return the paths of its chain and its key, those given where there are some."""
        made = self._ca.issue_cert(name, common_name=common_name)
        cert_file, key_file = as_files or (self.folder / f"{name}.crt", self.folder / f"{name}.key")
        made.private_key_pem.write_to_path(str(key_file))
        Path(cert_file).write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
        return str(cert_file), str(key_file)


def credentials(ca_file, cert_file="", key_file=""):
    """The credentials of a channel."""
    files = [Path(path).read_bytes() if path else None for path in (ca_file, key_file, cert_file)]
    return grpc.ssl_channel_credentials(*files)
