"""From pages to HTML: one document that needs nothing else."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Any

from graph_init.errors import MissingExtraError, escaped
from graph_init.report.text import finite, rounded
from graph_init.report.view import Page
from graph_init.version import __version__

#: What the page says of the charts' library, whose text it carries.
_NOTICE = (
    "/*! Vega, Vega-Lite and Vega-Embed: BSD-3-Clause, copyright University of Washington "
    "Interactive Data Lab and contributors; with D3: ISC, copyright Mike Bostock. */\n"
)


def require() -> None:
    """MissingExtraError unless what makes reports is installed."""
    try:
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"reports need {error.name}: pip install 'graph-init[report]'"
        ) from error


def single(page: Page) -> Iterator[str]:
    """A document of one page, in pieces."""
    return _document("document.html.jinja", page, ())


def many(overview: Page, pages: Iterable[tuple[str, Page]]) -> Iterator[str]:
    """A document of an overview, and pages by what their addresses say; in pieces.

    ``pages`` are taken one at a time, so that memory does not grow with their number. Of their
    content they carry seven digits; the whole is in each model's own file.
    """
    from markupsafe import Markup

    template = _environment().get_template("model.html.jinja")
    packed = (
        (
            address,
            Markup(
                _packed(
                    template.render(
                        page=page,
                        base=f"#/{address}?",
                        content=Markup(_json(rounded(page.content))),
                    )
                )
            ),
        )
        for address, page in pages
    )
    return _document("zoo.html.jinja", overview, packed)


def _document(template: str, page: Page, pages: Iterable[tuple[str, str]]) -> Iterator[str]:
    from markupsafe import Markup

    scripts = [_library(), _own("script.js")]
    stream = (
        _environment()
        .get_template(template)
        .stream(
            page=page,
            pages=pages,
            version=__version__,
            style=Markup(_own("style.css")),
            scripts=[Markup(s) for s in scripts],
            hashes=Markup(" ".join(map(_source_hash, scripts))),
            content=Markup(_packed(_json(page.content))),
        )
    )
    stream.enable_buffering(64)
    return iter(stream)


@functools.cache
def _environment() -> Any:
    import jinja2
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    return jinja2.Environment(
        loader=jinja2.PackageLoader("graph_init.report"),
        autoescape=True,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@functools.cache
def _own(name: str) -> str:
    return resources.files("graph_init.report").joinpath(name).read_text("utf-8")


@functools.cache
def _library() -> str:
    """The charts' library, as one script; takes seconds the first time."""
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    # Its names must not become the page's, nor may it end the element that it stands in.
    return _NOTICE + "(() => {" + bundle.replace("</script", "<\\/script") + "})();"


def _source_hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _json(content: Mapping[str, Any]) -> str:
    """JSON that can stand in HTML."""
    from jinja2.utils import htmlsafe_json_dumps

    dumps = functools.partial(json.dumps, separators=(",", ":"), allow_nan=False)
    return str(htmlsafe_json_dumps(finite(content), dumps=dumps))


def _packed(text: str) -> str:
    """Base64 of gzip, the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()
