"""Run notebooks from top to bottom and save them in the form that the tests expect: `make notebooks`.

    python notebooks/execute.py                                   # all of them, solutions included
    python notebooks/execute.py notebooks/03_lsh_hashing.ipynb    # some

Outputs stay in, so that a saved page shows them and nbval has something to compare. Widget state, execution times and
stderr are left out, and figures are stored with a palette of 128 colours, which makes them a third of the size. They
have twice the resolution at which the page shows them; photographs, which would be too large, have only that.
"""

import base64
import io
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
LARGE = 100_000  # bytes of a figure: a notebook is to stay below a megabyte


def execute(path):
    """Run the notebook at `path` and save it; an error in a cell leaves the file as it was."""
    notebook = nbformat.read(path, as_version=4)
    skipped = [cell for cell in notebook.cells if cell.cell_type == "code" and "# NBVAL_SKIP" in cell.source]
    NotebookClient(
        notebook, timeout=300, coalesce_streams=True, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [] if cell in skipped else [saved(o) for o in cell.outputs if o.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)


def saved(output):
    """The output, with its figure (if any) stored in 128 colours, and in fewer pixels if it is still large."""
    if "image/png" in output.get("data", {}):
        figure = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
        data, shown = in_few_colours(figure), output.metadata.get("image/png")
        if shown and len(data) > LARGE:
            data = in_few_colours(figure.resize((shown["width"], shown["height"]), Image.Resampling.LANCZOS))
        output.data["image/png"] = base64.b64encode(data).decode()
    return output


def in_few_colours(figure):
    """A PNG file of this image with a palette of 128 colours, as bytes."""
    file = io.BytesIO()
    figure.quantize(128, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or sorted([*FOLDER.glob("*.ipynb"), *FOLDER.glob("solutions/*.ipynb")])):
        began = time.time()
        execute(path)
        print(f"{path}: {time.time() - began:.0f} s", flush=True)
