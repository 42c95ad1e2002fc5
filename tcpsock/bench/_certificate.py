"""A certificate for the bench's own servers on the loopback. For tests only: it protects nothing.

Everybody has the private key below. No program should ever trust this authority outside the
bench; its own key was thrown away when it had signed this one certificate, for localhost,
127.0.0.1 and ::1, valid from 2020 to 2120. Shipping it lets the TLS rows run without the
`cryptography` package and without minting keys while the clock runs.
"""

from __future__ import annotations

__all__ = ["AUTHORITY", "CERTIFICATE", "KEY"]

AUTHORITY = """\
-----BEGIN CERTIFICATE-----
MIIB7zCCAZagAwIBAgIUPjKPiAifXzSCM33ci36DeV09wicwCgYIKoZIzj0EAwIw
QzEmMCQGA1UECgwddGNwc29jayBiZW5jaCwgZm9yIHRlc3RzIG9ubHkxGTAXBgNV
BAMMEHRjcHNvY2sgYmVuY2ggQ0EwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEw
MDAwMDBaMEMxJjAkBgNVBAoMHXRjcHNvY2sgYmVuY2gsIGZvciB0ZXN0cyBvbmx5
MRkwFwYDVQQDDBB0Y3Bzb2NrIGJlbmNoIENBMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEcwQWfT5Uufq66YEDjWz68uoTvuWH3xBMGt8vv03QWnzswawOQtE2BrSL
4/TstHZs/WlId+y8TPEbxE0b6PWTtKNmMGQwHQYDVR0OBBYEFHlAnwsKKibyGSsP
54CCKP/wbX3FMB8GA1UdIwQYMBaAFHlAnwsKKibyGSsP54CCKP/wbX3FMBIGA1Ud
EwEB/wQIMAYBAf8CAQAwDgYDVR0PAQH/BAQDAgEGMAoGCCqGSM49BAMCA0cAMEQC
IFuVP5gftBhMCdDgH7Nw2MwS4YQD+oXCgcd2IxRlnZ8mAiAln0gSN2NIJP5DUu6k
SmnsUH0IJUFqH2TLdVGDYvrLAA==
-----END CERTIFICATE-----
"""

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIICKDCCAc6gAwIBAgIUUmxzex8b3qyudvbbvGkLNPLCdfowCgYIKoZIzj0EAwIw
QzEmMCQGA1UECgwddGNwc29jayBiZW5jaCwgZm9yIHRlc3RzIG9ubHkxGTAXBgNV
BAMMEHRjcHNvY2sgYmVuY2ggQ0EwIBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEw
MDAwMDBaMDwxJjAkBgNVBAoMHXRjcHNvY2sgYmVuY2gsIGZvciB0ZXN0cyBvbmx5
MRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASo
8CDndAqjpI3AWwoUf5yWeNXzxziaCN7k3ehsTKg5mzACw+I92tqHRUoj9L9BufWU
b9VT1a05+JqdfbJZD3Rso4GkMIGhMB0GA1UdDgQWBBTKnkDmwVpBx0ujNqsi4dS+
DNmmpjAfBgNVHSMEGDAWgBR5QJ8LCiom8hkrD+eAgij/8G19xTAMBgNVHRMBAf8E
AjAAMA4GA1UdDwEB/wQEAwIHgDATBgNVHSUEDDAKBggrBgEFBQcDATAsBgNVHREE
JTAjgglsb2NhbGhvc3SHBH8AAAGHEAAAAAAAAAAAAAAAAAAAAAEwCgYIKoZIzj0E
AwIDSAAwRQIhANmG2qx/ZqV8cS53Z1IMcjVpKFa/NfS/HBKoAs86rbzTAiBi+PLE
/TRcnwdmOBGgUNE+/LiqZ2tviIom7Y8o668YvA==
-----END CERTIFICATE-----
"""

KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgmHVlcunn6zmGqh5L
g1z6QsHdMs7HQS/FxUTX+nV1HUChRANCAASo8CDndAqjpI3AWwoUf5yWeNXzxzia
CN7k3ehsTKg5mzACw+I92tqHRUoj9L9BufWUb9VT1a05+JqdfbJZD3Rs
-----END PRIVATE KEY-----
"""
