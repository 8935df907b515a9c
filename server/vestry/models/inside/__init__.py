"""Scripts that run inside the engine's environment, by path and with `python -I`.

Rule: nothing here imports another module of vestry, and nothing outside imports what is here: the engine's
environment has PyTorch and no vestry, the server's has vestry and no PyTorch.
"""
