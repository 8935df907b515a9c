"""Fakes with failure switches, for what cannot run here and for faults that a real part will not produce."""
