"""What the documentation site has beside docs/: README, notebooks, figures and result files, equations.

Pages link to files by their places in the repository, so that links lead somewhere without the site, too.
Here the links become those of the site, and what they lead to becomes a part of it. Where a link to a source
file has a name for its text, as [`pgx_jax.estimate.fit`](../pgx_jax/estimate/surrogates.py), it becomes one
to what the site says of that name.
"""

from __future__ import annotations

import html
import logging
import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!https?:|#|<|data:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
NAME = re.compile(r"`(pgx_jax(?:\.\w+)+)`")
EQUATION = re.compile(r'<(span|div) class="arithmatex">(\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)
LOG = logging.getLogger("mkdocs.plugins.site")
HOME = {"index.md": "README.md"}
"""Pages that are made from files outside of docs/, by their places in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README and notebooks as pages, and all files that pages link to."""
    root = Path(config.config_file_path).parent
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    texts["README.md"] = (root / "README.md").read_text()
    files.append(File.generated(config, "index.md", content=texts["README.md"]))
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.stem}"
        text, images = as_markdown(path)
        texts[f"{name}.ipynb"] = text
        HOME[f"{name}.md"] = f"{name}.ipynb"
        files.append(File.generated(config, f"{name}.md", content=text))
        for image, content in images.items():
            files.append(File.generated(config, f"notebooks/{image}", content=content))
    for target in sorted({target for place, text in texts.items() for target in outside(place, text)}):
        if (root / target).is_file():
            files.append(File.generated(config, target, abs_src_path=str(root / target)))
    return files


def as_markdown(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its images by name."""
    text, resources = MarkdownExporter().from_filename(path, resources={"unique_key": path.stem})
    return text, resources["outputs"]


def outside(place: str, text: str) -> set[str]:
    """The files that a text links to and that are no pages, by their places in the repository."""
    found = (link for link in LINK.finditer(text) if not NAME.fullmatch(link["text"]))
    places = {target(place, link["path"]) for link in found}
    return {path for path in places if in_site(path) == path and not path.startswith("..")}


def target(place: str, path: str) -> str:
    """Where a link of a file leads, from the top of the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), path))


def in_site(path: str) -> str:
    """Where the site has a file of the repository."""
    pages = {source: page for page, source in HOME.items()}
    return pages.get(path, path.removeprefix("docs/"))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links from the repository to links of the site."""
    here = page.file.src_uri
    place = HOME.get(here, f"docs/{here}")

    def moved(link: re.Match) -> str:
        name = NAME.fullmatch(link["text"])
        if name and link["path"].endswith(".py"):
            return f"[{link['text']}][{name[1]}]"
        path = posixpath.relpath(in_site(target(place, link["path"])), posixpath.dirname(here) or ".")
        return f"[{link['text']}]({path}{link['anchor'] or ''})"

    return LINK.sub(moved, markdown)


def on_page_content(html_: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Equations as MathML, which browsers draw without a script."""

    def drawn(found: re.Match) -> str:
        drawn = convert(html.unescape(found[3]), display="inline" if found[1] == "span" else "block")
        if "\\" in drawn or "&#x0005C" in drawn:
            LOG.warning("%s: an equation with a word that is not known: %s", page.file.src_uri, found[3])
        return drawn

    return EQUATION.sub(drawn, html_)
