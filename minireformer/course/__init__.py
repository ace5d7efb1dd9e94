"""Helpers of the notebooks.

`plots`, `cast`, `journey` and `model_map` draw (with matplotlib); `explore` shows the interactive figures of
`explorables/`; `exercises` and `capstone` check a reader's solutions. The core never imports this folder, and neither
does anything else in the package.
"""
