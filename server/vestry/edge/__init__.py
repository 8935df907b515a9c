"""The edge: bytes in, bytes out. HTTP becomes an arrival, a refusal becomes an answer."""
