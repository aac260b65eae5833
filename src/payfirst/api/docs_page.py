"""`/docs`: the OpenAPI document as one page of HTML. No script, nothing loaded, so that its policy can forbid both.

The known renderers (Swagger UI, Redoc, Scalar) are megabytes of script that demand a policy with holes, and no
package carries them alone. Pure.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

# JSON of any shape.
Document = dict[str, Any]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #777; --code: #8881; --accent: #0a7d55; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 6rem; }
h1 { margin: 0; } h2 { border-bottom: 1px solid var(--line); margin-top: 3rem; padding-bottom: .3rem; }
h3 { margin: 0; font: 600 1rem ui-monospace, monospace; overflow-wrap: anywhere; }
article { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0; padding: 1rem; }
nav ul { columns: 18rem; list-style: none; padding: 0; }
nav a, td code, th code { font-family: ui-monospace, monospace; }
a { color: var(--accent); } .dim { color: var(--dim); }
.method { background: var(--accent); border-radius: .25rem; color: #fff; font-size: .8rem; padding: .1rem .45rem; }
code, pre { background: var(--code); border-radius: .25rem; font: .875rem/1.5 ui-monospace, monospace; }
code { padding: .1rem .25rem; } pre { overflow-x: auto; padding: .75rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; width: 100%; }
td, th { border-top: 1px solid var(--line); padding: .35rem .75rem .35rem 0; text-align: left; vertical-align: top; }
summary { cursor: pointer; padding: .25rem 0; } details details { margin-left: 1rem; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).encode()


def render(document: Document) -> str:
    """The page."""
    info = document["info"]
    by_tag: dict[str, list[tuple[str, str, Document]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            by_tag[operation["tags"][0]].append((method, path, operation))
    server = document["servers"][0]["url"]
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body><header>",
            f"<h1>{escape(info['title'])} <small class=dim>{escape(info['version'])}</small></h1>",
            f"<p>{escape(info['summary'])} Server: <code>{escape(server)}</code>.",
            ' For programs: <a href="openapi.json">openapi.json</a>.</p>',
            f"{_marked(info['description'])}</header>{_contents(by_tag)}<main>",
            *(
                f"<section><h2>{escape(tag['description'])}</h2>"
                + "".join(_operation(server, *operation) for operation in by_tag[tag["name"]])
                + "</section>"
                for tag in document["tags"]
            ),
            "<section><h2>The documents</h2>",
            *(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
            "</section></main></body></html>",
        )
    )


def _contents(by_tag: dict[str, list[tuple[str, str, Document]]]) -> str:
    items = (
        f'<li><a href="#{escape(operation["operationId"])}">{method.upper()} {escape(path)}</a></li>'
        for operations in by_tag.values()
        for method, path, operation in operations
    )
    return f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>'


def _operation(server: str, method: str, path: str, operation: Document) -> str:
    parameters, body = operation.get("parameters", []), operation.get("requestBody")
    return "".join(
        (
            f'<article id="{escape(operation["operationId"])}">',
            f"<h3><span class=method>{method.upper()}</span> {escape(path)}</h3>",
            f"<p><b>{escape(operation['summary'])}</b></p>",
            _marked(operation.get("description", "")),
            _rows("Parameter", ((p["name"], _parameter(p)) for p in parameters)),
            "" if body is None else f"<h4>Body</h4>{_marked(body['description'])}{_contents_of(body['content'])}",
            f"<details><summary>With curl</summary>{_pre(_curl(server, method, path, operation))}</details>",
            "<h4>Answers</h4>",
            *(_response(status, response) for status, response in sorted(operation["responses"].items())),
            "</article>",
        )
    )


def _parameter(parameter: Document) -> str:
    needed = "required" if parameter.get("required") else "optional"
    return f"<span class=dim>{parameter['in']}, {needed}.</span> {_inline(parameter['description'])}"


def _response(status: str, response: Document) -> str:
    lines = response["description"].splitlines()
    first = lines[0] if len(lines) == 1 else "one of these"
    headers = ", ".join(f"<code>{escape(name)}</code>" for name in response.get("headers", {}))
    return "".join(
        (
            f"<details><summary><b>{status}</b> {_inline(first.removeprefix('- '))}</summary>",
            _marked(response["description"]) if len(lines) > 1 else "",
            f"<p class=dim>With the header {headers}.</p>" if headers else "",
            _contents_of(response.get("content", {})),
            "</details>",
        )
    )


def _contents_of(content: Document) -> str:
    shown = []
    for media_type, media in content.items():
        name = media["schema"].get("$ref", "").rpartition("/")[2]
        link = f'<a href="#{escape(name)}">{escape(name)}</a>, ' if name else ""
        shown.append(f"<p class=dim>{link}<code>{escape(media_type)}</code></p>")
        if "example" in media:
            shown.append(_pre(_json(media["example"])))
        many = media.get("examples", {})
        for title, example in many.items():
            pre = _pre(_json(example["value"]))
            shown.append(pre if len(many) == 1 else f"<details><summary>{escape(title)}</summary>{pre}</details>")
    return "".join(shown)


def _schema(name: str, schema: Document) -> str:
    required = schema.get("required", [])
    rows = (
        (field, f"<span class=dim>{_type(s)}{'' if field in required else ', optional'}.</span> {_inline(_about(s))}")
        for field, s in schema.get("properties", {}).items()
    )
    values = f"<p>One of {_listed(schema['enum'])}.</p>" if "enum" in schema else ""
    about = _marked(schema.get("description", ""))
    return f'<article id="{escape(name)}"><h3>{escape(name)}</h3>{about}{values}{_rows("Member", rows)}</article>'


def _about(schema: Document) -> str:
    for one in (schema, *schema.get("anyOf", [])):
        if "description" in one:
            return str(one["description"])
    return ""


def _type(schema: Document) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return f"one of {_listed(schema['enum'])}"
    if "items" in schema:
        return f"list of {_type(schema['items'])}"
    kind = schema.get("type", "anything")
    return escape(" or ".join(kind) if isinstance(kind, list) else kind)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(f"<code>{escape(str(value))}</code>" for value in values)


def _rows(title: str, rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><th><code>{escape(name)}</code></th><td>{text}</td></tr>" for name, text in rows)
    return (
        f"<table><thead><tr><th>{title}</th><th>What it is</th></tr></thead><tbody>{body}</tbody></table>"
        if body
        else ""
    )


def _curl(server: str, method: str, path: str, operation: Document) -> str:
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    lines = [f"curl '{server}{path}'"]
    if method != "get":
        lines[0] = f"curl -X {method.upper()} '{server}{path}'"
    for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
        first = next(iter(media["examples"].values()))["value"]
        lines += [f"-H 'Content-Type: {media_type}'", f"-d '{json.dumps(first)}'"]
    return " \\\n  ".join(lines)


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _pre(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _marked(text: str) -> str:
    """Paragraphs and bullets of Markdown, as the descriptions use them; a line that goes on is indented."""
    blocks: list[str] = []
    for block in re.split(r"\n\s*\n", text.strip()):
        if block.startswith("- "):
            items = re.split(r"\n- ", block.removeprefix("- "))
            blocks.append(f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>")
        elif block:
            blocks.append(f"<p>{_inline(block)}</p>")
    return "".join(blocks)


def _inline(text: str) -> str:
    text = escape(text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", text)
    return re.sub(r"\[([^]]+)\]\((https://[^)\s]+)\)", r'<a href="\2">\1</a>', text)
