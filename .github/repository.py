"""After a fork: name your own repository everywhere, with `make repository REPO=owner/name [REF=main]`.

    python .github/repository.py owner/name [ref]

The course links to its own repository from its pages, badges, notebooks, citation and metadata. On Colab, notebooks
also install the package from it, at `ref`: a branch, a tag or a commit. This rewrites all of these links in the files
that git tracks, and nothing else: files are edited as text, so each line that changes is one line of a diff. The links
to replace are those that pyproject.toml names as its Changelog.

It lives in .github because it is about where the project is on GitHub, and no part of the course.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Each way to name the repository. Of two that begin alike, the longer comes first.
LINKS = (
    "colab.research.google.com/github/{owner}/{name}/blob/{ref}/",
    "raw.githubusercontent.com/{owner}/{name}/{ref}/",
    "{owner}.github.io/{name}/",
    "github.com/{owner}/{name}/blob/{ref}/",
    "github.com/{owner}/{name}/tree/{ref}/",
    "github.com/{owner}/{name}@{ref}",  # what pip installs
    "github.com/{owner}/{name} && cd {name}",  # git clones into a folder of that name
    "github.com/{owner}/{name}",
)
CHANGELOG = re.compile(r"github\.com/(?P<owner>[^/\s]+)/(?P<name>[^/\s]+)/blob/(?P<ref>\S+)/CHANGELOG\.md")
OWNER = r"(?P<owner>[A-Za-z0-9](?:-?[A-Za-z0-9]){0,38})"  # what GitHub allows
NAME = r"(?P<name>(?!\.{1,2}$)[A-Za-z0-9_.][A-Za-z0-9_.-]{0,99})"
REF = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]|/(?!/))*"  # of what git allows, all that needs no quotes


def current(root=ROOT):
    """{"owner": ..., "name": ..., "ref": ...}: what this folder's links name now."""
    return CHANGELOG.search((root / "pyproject.toml").read_text(encoding="utf-8")).groupdict()


def parse(repo, ref):
    """The same dict for "owner/name" and a ref. ValueError if GitHub could not have them."""
    found = re.fullmatch(f"{OWNER}/{NAME}", repo)
    if not found or repo.endswith(".git"):
        raise ValueError(f"REPO: expected owner/name, such as ada/reformer-course, got {repo!r}")
    if not re.fullmatch(REF, ref) or ".." in ref or ref.endswith((".", "/", ".lock")):
        raise ValueError(f"REF: expected a branch, a tag or a commit, such as main or v1.0, got {ref!r}")
    return {**found.groupdict(), "ref": ref}


def rename(text, old, new):
    """`text` with every link to `old` changed into the same link to `new`."""
    links = {link.format(**old): link.format(**new) for link in LINKS}
    ways = "|".join(map(re.escape, links))
    whole = rf"(?<![\w.-])(?:{ways})(?:(?<=/)|(?![\w-]|\.\w))"  # not the beginning or end of a longer name
    return re.sub(whole, lambda found: links[found[0]], text)


def texts(root=ROOT):
    """(path, text) for each text file that git tracks. ValueError outside a clone."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True).stdout.decode()
    if "pyproject.toml" not in listed.split("\0"):
        raise ValueError(f"expected a git clone of the course, but git tracks no pyproject.toml in {root}")
    for path in (root / name for name in listed.split("\0") if name):
        data = path.read_bytes() if path.is_file() else b"\0"
        try:
            text = data.decode()
        except UnicodeDecodeError:  # a picture, say
            continue
        if "\0" not in text:
            yield path, text


def main(repo="", ref=""):
    """Rewrite the files, and print their names."""
    old, new = current(), parse(repo, ref or "main")
    for path, text in texts():
        renamed = rename(text, old, new)
        if renamed != text:
            path.write_bytes(renamed.encode())  # as bytes: line endings stay
            print(path.relative_to(ROOT).as_posix())
    print(f"Every link now names {repo} at {new['ref']}.")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except ValueError as error:
        sys.exit(str(error))
