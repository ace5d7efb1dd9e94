"""Other libraries: `huggingface` reads and writes the checkpoints of `transformers`, without needing it.

The core never imports this folder.
"""
