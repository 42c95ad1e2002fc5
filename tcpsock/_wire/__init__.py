"""Bytes to and from the kernel: the wire, TLS on it, and what a platform has for both."""
