"""Writes goldens.json: what jinja2 answers, set up as transformers sets it up.

    python3 -m venv venv && venv/bin/pip install jinja2==3.1.6
    venv/bin/python gen_goldens.py

Two kinds of cases: small ones of the language (cases.txt, one template each
between lines of '=====', rendered with VARS) and chat templates
(templates/*.jinja x CONVERSATIONS). A case holds the output, or the words of
raise_exception, or error = true for any other failure.
"""
import datetime
import json
import pathlib

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2025, 3, 9, 7, 5, 2)


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Raised(Exception):
    pass


def raise_exception(message):
    raise Raised(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def variables(case, string_arguments=False, null_content=False):
    """The variables a template sees, as input.go builds them."""
    out = dict(case.get("vars", {}))
    out["messages"] = []
    for m in case.get("messages", []):
        d = {"role": m["role"], "content": m.get("content", "")}
        if m.get("tool_calls") and not d["content"] and null_content:
            d["content"] = None
        for key, src in (("name", "name"), ("tool_call_id", "tool_call_id"), ("reasoning_content", "reasoning"),
                         ("reasoning", "reasoning"), ("thinking", "reasoning")):
            if m.get(src):
                d[key] = m[src]
        if m.get("tool_calls"):
            d["tool_calls"] = []
            for c in m["tool_calls"]:
                arguments = c["arguments"] if string_arguments else json.loads(c["arguments"])
                call = {"type": "function", "id": c["id"], "function": {"name": c["name"], "arguments": arguments}}
                d["tool_calls"].append(call)
        out["messages"].append(d)
    tools = [{"type": "function", "function": t} for t in case.get("tools", [])]
    out["tools"] = tools or None
    out["documents"] = None
    out["add_generation_prompt"] = case.get("add_generation_prompt", False)
    out["bos_token"] = case.get("bos_token", "")
    out["eos_token"] = case.get("eos_token", "")
    return out


def render(template, case, **form):
    try:
        return {"output": environment().from_string(template).render(**variables(case, **form))}
    except Raised as e:
        return {"raised": str(e)}
    except (TemplateError, Exception):
        return {"error": True}


VARS = {
    "s": "Hello, World", "e": "", "u": "naïve ☃ 日本", "q": "it's \"x\"\n\t\\", "sp": "  pad \n", "n": 7, "z": 0, "neg": -3,
    "f": 2.5, "big": 1e20, "small": 1e-7, "t": True, "no": False, "nil": None, "huge": 123456789012345678901234567890,
    "l": [3, 1, 2], "el": [], "nest": [1, [2, "x"], {"k": None}], "words": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": "two", "items": 5, "c": [1, 2]}, "ed": {},
    "recs": [{"name": "x", "v": 2, "tag": {"k": "p"}}, {"name": "Y", "v": 1, "tag": {"k": "q"}}, {"name": "z", "v": 2}],
    "html": "<a href='x'>&\"</a>", "lines": "one\n\ntwo\r\nthree\n",
}

U = {"role": "user", "content": "  What is 2+2? <|im_end|>\n"}
A = {"role": "assistant", "content": "It is 4.\n"}
S = {"role": "system", "content": "Be brief. "}
U2 = {"role": "user", "content": "And the weather in Zürich? 日本"}
CALL = {"role": "assistant", "tool_calls": [
    {"id": "abcdefgh1", "name": "weather", "arguments": "{\"city\": \"Zürich\", \"days\": 2, \"opts\": {\"unit\": \"C\"}}"}]}
CALL2 = {"role": "assistant", "content": "Let me look.", "reasoning": "I need tools.", "tool_calls": [
    CALL["tool_calls"][0], {"id": "abcdefgh2", "name": "clock", "arguments": "{}"}]}
R1 = {"role": "tool", "name": "weather", "tool_call_id": "abcdefgh1", "content": "{\"temp\": 21.5}"}
R2 = {"role": "tool", "name": "clock", "tool_call_id": "abcdefgh2", "content": "12:00"}
THINK = {"role": "assistant", "content": "<think>\nhm, hm\n</think>\n\nIt is 4."}
REASON = {"role": "assistant", "reasoning": "2 and 2", "content": "4"}
TOOLS = [
    {"name": "weather", "description": "Weather of a \"city\" & more <b>", "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Name, e.g. 'Zürich'"},
        "days": {"type": "integer", "default": 1, "minimum": 0, "maximum": 18446744073709551615},
        "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
        "tags": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
        "any": {"oneOf": [{"type": "string"}, {"type": "number"}]}}, "required": ["city"]}},
    {"name": "clock", "description": "Time", "parameters": {"type": "object", "properties": {}}},
]
CONVERSATIONS = {
    "user": {"messages": [U], "add_generation_prompt": True},
    "system": {"messages": [S, U], "add_generation_prompt": True},
    "turns": {"messages": [S, U, A, U2], "add_generation_prompt": True},
    "closed": {"messages": [U, A]},
    "two users": {"messages": [U, U2]},
    "tools": {"messages": [S, U2], "tools": TOOLS, "add_generation_prompt": True},
    "call": {"messages": [U2, CALL, R1], "tools": TOOLS, "add_generation_prompt": True},
    "calls": {"messages": [S, U2, CALL2, R1, R2, A, U], "tools": TOOLS, "add_generation_prompt": True},
    "open calls": {"messages": [U2, CALL2, R1, R2], "add_generation_prompt": True},
    "think": {"messages": [U, THINK, U2, THINK], "add_generation_prompt": False},
    "reason": {"messages": [U, REASON]},
    "no thinking": {"messages": [U], "add_generation_prompt": True, "vars": {"enable_thinking": False}},
    "strange role": {"messages": [U, {"role": "<|im_start|>", "content": "x"}]},
    "empty": {"messages": []},
}
# Templates that want arguments as a string and content as null; Probe must find these out.
FORMS = {"fullwidth": {"string_arguments": True, "null_content": True}}


def main():
    cases = []
    for i, template in enumerate((HERE / "cases.txt").read_text().split("\n=====\n")):
        cases.append({"name": f"case {i + 1}", "template": template, "input": {"vars": VARS}} | render(template, {"vars": VARS}))
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = path.read_text().removesuffix("\n")
        for name, conversation in CONVERSATIONS.items():
            conversation = {"bos_token": "<s>", "eos_token": "</s>"} | conversation
            answer = render(template, conversation, **FORMS.get(path.stem, {}))
            cases.append({"name": f"{path.stem}: {name}", "file": path.name, "input": conversation} | answer)
    for c in cases:
        if c["name"].startswith("case"):
            c.pop("input")
    text = json.dumps({"vars": VARS, "cases": cases}, ensure_ascii=False, indent=1)
    (HERE / "goldens.json").write_text(text + "\n")
    kinds = [next(k for k in ("output", "raised", "error") if k in c) for c in cases]
    print(len(cases), {k: kinds.count(k) for k in set(kinds)})


main()
