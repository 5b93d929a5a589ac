#!/usr/bin/env python3
"""Makes crates/ferrum-models/tests/data/chat/golden.json: renderings of the templates there.

Usage: python tools/golden/chat.py crates/ferrum-models/tests/data/chat

Needs the package jinja2 (3.1.6 was used). The environment is that of apply_chat_template in Hugging
Face's transformers; the clock stands at 2026-01-09 12:30:05.
"""

import json
import sys
from datetime import datetime
from pathlib import Path

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime(2026, 1, 9, 12, 30, 5)


class Generation(Extension):
    """The tags that mark the assistant's words in training; without effect on the text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.If(jinja2.nodes.Const(True), body, [], []).set_lineno(line)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def main() -> None:
    folder = Path(sys.argv[1])
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    golden = {}
    for path in sorted(folder.glob("*.jinja")):
        template = env.from_string(path.read_text(encoding="utf-8"))
        golden[path.stem] = [render(template, case) for case in cases]
    text = json.dumps(golden, ensure_ascii=False, indent=0)
    (folder / "golden.json").write_text(text + "\n", encoding="utf-8")


def render(template, case):
    """The text, or null where the template refuses the conversation."""
    try:
        return template.render(
            messages=case["messages"],
            tools=case.get("tools"),
            documents=None,
            add_generation_prompt=case.get("add_generation_prompt", True),
            bos_token="<s>",
            eos_token="</s>",
            **case.get("extra", {}),
        )
    except jinja2.exceptions.TemplateError:
        return None


if __name__ == "__main__":
    main()
