"""Helpers of the notebooks, and the poster.

`plots`, `cast`, `journey` and `model_map` draw (with matplotlib); `explore` shows the interactive figures of
`explorables/`; `exercises`, `capstone` and `puzzles` check a reader's solutions. `poster` puts the words of `equations`
and the drawings of `poster_pictures` on a page. The core never imports this folder, and neither does anything else in
the package.
"""
