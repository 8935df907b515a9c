"""Tokens of identity providers (JWT, RFC 7519, as signed by RFC 7515) as credentials.

What a token says is believed after its signature was verified with a key of the issuer that it names, by an algorithm
that the settings allow for it. Every failure is the same refusal; a provider that cannot be asked is none.
"""
