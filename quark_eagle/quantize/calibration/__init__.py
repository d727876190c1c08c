"""Calibration: the draft's own forward pass with AMD Quark's observers in place, over recorded states of its target."""
