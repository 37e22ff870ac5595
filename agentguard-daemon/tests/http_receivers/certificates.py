"""Makes certificates below the directory of its argument: two authorities, a server, a client."""

import pathlib
import sys

import trustme

directory = pathlib.Path(sys.argv[1])
ca, other = trustme.CA(), trustme.CA()
ca.cert_pem.write_to_path(directory / "ca.pem")
other.cert_pem.write_to_path(directory / "other-ca.pem")
server = ca.issue_cert("localhost")
server.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
for name, authority in [("client", ca), ("other-client", other)]:
    client = authority.issue_cert("agentguard@example.com")
    client.private_key_pem.write_to_path(directory / f"{name}.key")
    for blob in client.cert_chain_pems:
        blob.write_to_path(directory / f"{name}.pem", append=True)
