"""Says in tests/data/jinja_snippets.json what Python's jinja2 makes of its short templates.

The file has `globals`, which all templates see, and `rows`, each with its `source`; this fills in
`output`, or the `error`. A new snippet is a row with a source alone.

The environment is the one of Hugging Face transformers: an immutable sandbox, trim_blocks and
lstrip_blocks, loop controls, tojson without HTML escapes, raise_exception. Needs jinja2 3.1.

    python3 tests/tools/make_jinja_snippets.py
"""

import json
import pathlib

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

FILE = pathlib.Path(__file__).parent.parent / "data" / "jinja_snippets.json"


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: "now"
    return env


def row(env, source, variables):
    try:
        return {"source": source, "output": env.from_string(source).render(**variables)}
    except Exception as e:
        return {"source": source, "error": f"{type(e).__name__}: {e}"}


def main():
    snippets = json.loads(FILE.read_text())
    env = environment()
    rows = [row(env, r["source"], snippets["globals"]) for r in snippets["rows"]]
    # Addresses and the words of messages are no one's business.
    snippets["rows"] = [r for r in rows if " at 0x" not in r.get("output", "")]
    FILE.write_text(json.dumps(snippets, indent=1) + "\n")


main()
