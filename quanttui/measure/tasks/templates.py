"""Chat templates, as they stand in a GGUF: Jinja from anywhere, run in a sandbox. Knows no engine.

A template is a program of whoever made the file: it gets strings in, cannot reach Python, and runs where it can be
stopped (`bounded`), should it loop without end or take all memory.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quanttui.format import clean
from quanttui.measure.tasks import bounded

TODAY = datetime.date(2024, 7, 26)
"""What a template that asks is told to be the day, so that a prompt is the same on any: the one that Llama 3.1's
template takes where it is told none."""


_FAILURES = (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
"""By what a template can fail that is not the program's fault."""


class Refused(Exception):
    """The template will not have these messages, in its own words."""


SWITCH = "enable_thinking"
"""The variable by which a template is told whether the model shall think: Qwen3's, and others' since."""


def has_switch(template: str) -> bool:
    """Whether a template looks at the switch."""
    return SWITCH in template


def rendered(
    template: str, messages: Sequence[tuple[str, str]], bos: str, eos: str, thinking: bool | None = None
) -> tuple[str, str]:
    """The prompt's text, ready for the assistant's answer, and its form: "chat", or why it is plain text.

    Args:
        template: the GGUF's, "" where it has none: then the contents of the messages, a blank line between.
        messages: (role, content).
        thinking: what the switch is set to where the template has it, None to leave it alone.
    """
    plain = "\n\n".join(content for _, content in messages)
    if not template:
        return plain, "its file has no chat template"
    switch = {} if thinking is None or not has_switch(template) else {SWITCH: thinking}
    try:
        text, why = bounded.call(render, template, list(messages), bos, eos, switch)
    except bounded.Exceeded:
        return plain, f"its chat template takes more than {bounded.SECONDS:g} s, or too much memory"
    return (plain, clean(why, 160)) if why else (text, "chat")


def render(
    template: str, messages: Sequence[tuple[str, str]], bos: str, eos: str, switch: Mapping[str, bool]
) -> tuple[str, str]:
    """The template's text and "", or "" and why it has none. Without limits: `rendered` has them."""
    try:
        given = [{"role": role, "content": content} for role, content in messages]
        made = _compiled(template)
        return made.render(messages=given, add_generation_prompt=True, bos_token=bos, eos_token=eos, **switch), ""
    except Refused as refused:
        return "", f"its chat template refuses them: {clean(str(refused), 120)}"
    except _FAILURES as error:
        return "", f"its chat template fails: {clean(str(error) or type(error).__name__, 120)}"


@lru_cache(maxsize=4)
def _compiled(template: str) -> Template:
    """With the names and the handling of blanks that Hugging Face's chat templates are written for."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], autoescape=False
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals |= {"raise_exception": _refuse, "strftime_now": _today}
    return sandbox.from_string(template)


def _refuse(why: object) -> NoReturn:
    raise Refused(str(why))


def _today(form: str) -> str:
    return TODAY.strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own escapes <, > and & for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
