"""Instruments for looking at what is built: `gradcheck` for a gradient, `memory` for what is alive.

The core never imports this folder.
"""
