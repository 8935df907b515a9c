"""Transparency-log formats: RFC 6962 trees, C2SP tiles, notes, checkpoints and proofs. Only `tiles` reads files."""
