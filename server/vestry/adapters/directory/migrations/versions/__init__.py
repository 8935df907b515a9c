"""The steps. A new one is a file here, with the one before it as its `down_revision`."""
