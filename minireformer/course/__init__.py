"""Helpers of the notebooks: `plots` draws (with matplotlib), `exercises` and `capstone` check a reader's solutions.

The core never imports this folder, and neither does anything else in the package.
"""
