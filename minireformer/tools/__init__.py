"""Measuring instruments: `gradcheck` checks gradients, `memory` counts the bytes that are alive.

The core never imports this folder.
"""
