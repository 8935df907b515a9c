"""Adapters: one file for each outside thing that stands behind a seam."""
