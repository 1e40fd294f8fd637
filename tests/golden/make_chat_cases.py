#!/usr/bin/env python3
"""Renders the templates below as transformers does, for tests/data/chat_template_test.cc.

    python3 tests/golden/make_chat_cases.py tests/golden/chat/cases.json

The first part is the language, one construct a line; the second is conversations in templates with the constructs that
Llama 2, Llama 3, Llama 3.1, Mistral and Qwen use, in wordings of this project. A case without "output" is one that the
reference refuses. Needs `pip install transformers jinja2` (5.23.0 and 3.1.6 were used).
"""
import json
import sys

from transformers.utils.chat_template_utils import _compile_jinja_template

VARIABLES = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  What is 2 + 2?\n"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "Стра\u00dfe \u6a4b \U0001f600 \"quoted\" <b>"},
    ],
    "n": 7, "zero": 0, "x": 2.5, "big": 1e16, "small": 0.00001, "whole": 3.0, "yes": True, "no": False, "nothing": None,
    "word": "Token", "blank": " \t\u00a0a b\u3000\n", "empty": "", "list": [3, 1, 2], "names": ["a", "b", "c"], "none_left": [],
    "map": {"b": 1, "a": [1, 2.5, None, True, {"k": "v"}], "items": "shadowed", "\u00e9": "\u2028\u0007\\"},
    "lines": "one\n\n  two\r\nthree",
    "rows": [{"n": "p", "v": 1}, {"n": "q", "v": 2}, {"n": "r"}],
}

LANGUAGE = r"""
{{ n + 2 * 3 - 1 }} {{ n // 2 }} {{ n / 2 }} {{ n % 4 }} {{ -n // 2 }} {{ -n % 4 }} {{ n ** 2 }} {{ 2 ** -n if no else -n }} {{ x * 2 }}
{{ big }} {{ small }} {{ whole }} {{ x }} {{ 0.1 + 0.2 }} {{ 100000000000000.0 }} {{ 7.0 // 2 }} {{ -7.5 % 2 }}
{{ yes }} {{ no }} {{ nothing }} {{ missing }} {{ true }} {{ None }} {{ none }} {{ yes + 1 }}
{{ 'a' ~ 1 ~ nothing ~ yes }} {{ 'a' 'b' "c" }} {{ 'ab' * 3 }} {{ "it's" }} {{ 'say "x"' }}
{{ '\n\t\\\'\x41\u00e9\U0001f600\101\q' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ 1 == true }} {{ 'a' != 'b' }} {{ [1, 2] == [1, 2] }} {{ none == false }}
{{ not yes and no or n }} {{ zero or empty or 'end' }} {{ n and word }} {{ (no or nothing) is none }}
{{ 'ok' in 'Tokens' }} {{ 3 in list }} {{ 'b' in map }} {{ 'z' not in map }} {{ not 'z' in map }} {{ 5 in missing }}
{{ 'yes' if n > 3 else 'no' }} {{ 'x' if no }} {{ 1 if no else 2 if no else 3 }}
{{ word[0] }}{{ word[-1] }}{{ word[1:3] }}{{ word[:-1] }}{{ word[::-1] }}{{ word[10] }}{{ word[3:1] }} {{ messages[3].content[5:9] }} {{ messages[3].content[::-2] }}
{{ list[0] }} {{ list[-1] }} {{ list[1:] | length }} {{ list[::-1][0] }} {{ list[5] }} {{ names[-2:] | join }} {{ names[::2] | join('-') }}
{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages[-1]["role"] }} {{ messages[0].missing }} {{ map.b }} {{ map['items'] }}
{{ messages[0].missing.deeper }}
{{ missing.attribute }}
{{ missing + 1 }}
{{ missing() }}
{{ 1 + 'a' }}
{{ 'a' + 1 }}
{{ 1 < 'a' }}
{{ n // zero }}
{{ blank | trim }}|{{ blank.strip() }}|{{ blank.lstrip() }}|{{ blank.rstrip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xyaxy' | trim('xy') }}|{{ '--a'.lstrip('-') }}|{{ '\x1ca\x1d'.strip() }}
{{ word | upper }} {{ word | lower }} {{ word.upper() }} {{ 'a bC d1e'.title() }} {{ 'aBC d' | capitalize }} {{ word.lower().upper() }}
{{ word | length }} {{ messages | length }} {{ map | count }} {{ messages[3].content | length }} {{ missing | length }}
{{ map | tojson }}
{{ map | tojson(indent=2) }}
{{ [] | tojson(indent=4) }}{{ {} | tojson(4) }} {{ [[], {}] | tojson(indent=1) }} {{ x | tojson }} {{ word | tojson }} {{ none | tojson }} {{ big | tojson }}
{{ missing | tojson }}
{{ missing | default('d') }} {{ empty | default('d') }} {{ empty | default('d', true) }} {{ nothing | d('n') }} {{ missing | default }}|
{{ list | join(', ') }} {{ names | join }} {{ rows | map(attribute='n') | join('/') }} {{ rows | join(',', attribute='n') }} {{ 'abc' | join('.') }}
{{ list | first }} {{ list | last }} {{ none_left | first }} {{ word | first }} {{ word | list | join(' ') }}
{{ '12' | int + 1 }} {{ ' -7 ' | int }} {{ 'a' | int }} {{ 'a' | int(5) }} {{ 3.9 | int }} {{ -3.9 | int }} {{ yes | int }}
{{ 5 | string + 'a' }} {{ none | string }} {{ word | safe }} {{ word | replace('o', '0') }} {{ 'aaaa' | replace('a', 'b', 2) }} {{ 'aaa'.replace('aa', 'b') }}
{% for k, v in map | items %}{{ k }}={{ v | tojson }};{% endfor %}
{% for k, v in map.items() %}{{ k }};{% endfor %}{% for k in map %}{{ k }},{% endfor %}{% for k in map.keys() %}{{ k }}.{% endfor %}{% for v in map.values() %}{{ v | tojson }}!{% endfor %}
{{ map.get('b') }} {{ map.get('zz') }} {{ map.get('zz', 'other') }}
{{ rows | selectattr('v') | map(attribute='n') | join }} {{ rows | selectattr('v', 'equalto', 2) | map(attribute='n') | list | join }} {{ rows | rejectattr('v', 'defined') | map(attribute='n') | join }}
{{ list | select('odd') | join(',') }} {{ list | reject('odd') | join(',') }} {{ list | select('gt', 1) | list | length }} {{ names | map('upper') | join }}
{{ list | reverse | join }} {{ word | reverse }} {{ rows | map(attribute='v', default=0) | join }}
{{ lines | indent }}|{{ lines | indent(2, true) }}
{{ 'a,b,,c'.split(',') | join('|') }} {{ ' a  b c '.split() | join('|') }} {{ 'a,b,c'.split(',', 1) | join('|') }} {{ ' a b  c '.split(none, 1) | join('|') }} {{ lines.splitlines() | join('|') }} {{ 'a\x0bb\u2028c\r\n\r\n' .splitlines() | join('|') }} {{ 'x'.split('</think>')[-1] }}
{{ word.startswith('To') }} {{ word.endswith('x') }} {{ word.startswith(('a', 'T')) }} {{ word.find('k') }} {{ word.find('z') }} {{ 'banana'.count('an') }} {{ '-'.join(names) }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.txt'.removesuffix('.txt') }} {{ 'x'.removesuffix('y') }}
{{ n is odd }} {{ n is even }} {{ n is divisibleby 7 }} {{ n is divisibleby(2) }} {{ n is number }} {{ n is integer }} {{ x is float }} {{ yes is boolean }} {{ yes is number }} {{ yes is integer }}
{{ missing is defined }} {{ missing is not defined }} {{ n is defined }} {{ missing is undefined }} {{ nothing is none }} {{ nothing is not none }} {{ messages[0].x is defined }}
{{ word is string }} {{ map is string }} {{ map is mapping }} {{ list is mapping }} {{ list is iterable }} {{ word is iterable }} {{ n is iterable }} {{ list is sequence }} {{ yes is true }} {{ no is false }} {{ n is true }}
{{ n is equalto 7 }} {{ n is eq(7) }} {{ n is ne 7 }} {{ n is gt 3 }} {{ n is lt(3) }} {{ n is in [1, 7] }} {{ word is in 'Tokens' }} {{ nothing is sameas none }} {{ 1 is sameas true }}
{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %} {% for i in list %}{{ loop.index0 }}{{ loop.first }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.cycle('a', 'b') }} {% endfor %}
{% for i in list %}{{ loop.previtem }}<{{ i }}<{{ loop.nextitem }} {% endfor %}{% for i in list %}{{ loop.previtem is defined }}{% endfor %}
{% for i in none_left %}x{% else %}nothing{% endfor %} {% for i in missing %}x{% else %}none{% endfor %} {% for i in list if i > 1 %}{{ loop.index }}:{{ i }} {% else %}x{% endfor %} {% for c in 'né' %}[{{ c }}]{% endfor %}
{% for i in range(4) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %} {{ range(2, 8, 3) | join(',') }} {{ range(3, 0, -1) | join(',') }}
{% for a, b in [[1, 2], [3, 4]] %}{{ a }}-{{ b }} {% endfor %}{% for (a, b) in [(5, 6)] %}{{ a + b }}{% endfor %}
{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}
{% for i in 5 %}{% endfor %}
{% set a = 1 %}{% for i in list %}{% set a = a + i %}{{ a }} {% endfor %}{{ a }}
{% set ns = namespace(a=1, b='x') %}{% for i in list %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.b }}{{ ns.c }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }} {% set t %}in {{ a }}{% endset %}[{{ t }}]{{ t | length }}
{% if no %}{% set inner = 1 %}{% else %}{% set inner = 2 %}{% endif %}{{ inner }}
{% set map2 = map %}{% set map2.x = 1 %}
{% if zero %}a{% elif empty %}b{% elif n %}c{% else %}d{% endif %}{% if no %}{% else %}e{% endif %}{% if list == [3, 1, 2] and (n or m) %}f{% endif %}
{% macro greet(name, mark='!') %}Hello {{ name }}{{ mark }}{% endmacro %}{{ greet('A') }}{{ greet('B', '?') }}{{ greet(mark='.', name='C') }}{{ greet() }}{{ greet('x') | upper }}
{% macro down(i) %}{{ i }}{% if i > 0 %},{{ down(i - 1) }}{% endif %}{% endmacro %}{{ down(3) }}
{% macro f(a) %}{% for i in a %}{{ i }}{{ n }}{% endfor %}{% endmacro %}{{ f(list) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}
{# a comment #}a{#- b -#} c {{- 'd' -}} e {%- if yes -%} f {%- endif %} g
{{ '{{' }}{{ '%}' }}{{ "}}" }}{{ {'a': {'b': 1}}.a.b }}{{ {'k': 'v'}['k'] }}{{ [1, [2]][1][0] }}{{ (1, 2)[1] }}{{ dict(a=1).a }}
{{ raise_exception('not like this') }}
{% generation %}inside{% endgeneration %} outside
{{ 'a' if messages[0].role == 'system' and messages | length > 2 else 'b' }} {{ (messages | length - 1) - 1 }} {{ messages[messages | length - 1].role }}
{{ word.nothing() }}
{{ word | nothing }}
{% nothing %}
{{ word is nothing }}
{% if n %}
{{ n
{{ 'open }}
{% for %}
{{ 1 2 }}
{{ }}
{% endif %}
""".strip("\n").split("\n")

# Blanks around tags: every template is rendered as it is.
BLANKS = [
    "{% if yes %}\nline\n{% endif %}\nnext\n",
    "  {% if yes %}\n    indented {{ n }}\n  {% endif %}  \n  tail",
    "a {% if yes %}\nb\n{% endif %} c\n\n",
    "{%- for i in list %}\n  {{- i }}\n{%- endfor %}\n",
    "x\n\n  {%- if yes %} y {% endif -%}  \n z",
    "  {%+ if yes %}kept{% endif +%}\nnewline",
    "{{ n }}\n{{ n }}  \n  {{ n -}}\n  {% set a = 1 %}\n  {{ a }}",
    "  {# comment #}\nline\n  {#- other -#}\n end",
    "a\r\nb\r{% if yes %}\r\nc{% endif %}",
    "\t {% set a = 1 %} {% set b = 2 %}\n{{ a }}{{ b }}\n\n",
    "{{ n -}} \n\t {% if yes %}\n x{% endif %}",
    "{{-1}} {{ -1 }} {{+ 1 }}",
    "text { not a tag } {# {{ n }} #}% } {",
]

LLAMA2 = (
    "{% set rules = messages[0]['content'] if messages and messages[0]['role'] == 'system' else '' %}"
    "{% for m in (messages[1:] if rules else messages) %}{% set turn = ['user', 'assistant'][loop.index0 % 2] %}"
    "{% if m['role'] != turn %}{{ raise_exception('now it is the turn of the ' + turn) }}{% endif %}"
    "{% if turn == 'user' %}{{ bos_token ~ '[INST] ' ~ ('<<SYS>>\\n' ~ rules ~ '\\n<</SYS>>\\n\\n' if rules and loop.first) }}"
    "{{ m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}")

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")

LLAMA31 = """{%- macro head(who) %}{{ '<|start_header_id|>' ~ who ~ '<|end_header_id|>\\n\\n' }}{% endmacro -%}
{%- set year = (strftime_now('%Y') | int) if strftime_now is defined else 0 %}
{%- set offered = tools if tools is defined and tools is not none else [] %}
{{- bos_token ~ head('system') }}
{%- if messages and messages[0].role == 'system' %}
    {{- messages[0].content | trim }}
    {%- set talk = messages[1:] %}
{%- else %}
    {%- set talk = messages %}
{%- endif %}
{%- if year > 2000 %}
    {{- '\\nThis century.' }}
{%- endif %}
{%- for t in offered %}
    {{- '\\n' + t.function | tojson(indent=4) }}
{%- endfor %}
{{- '<|eot_id|>' }}
{%- for m in talk if m.role != 'system' %}
    {%- if m.role in ['tool', 'ipython'] %}
        {{- head('ipython') }}
        {{- m.content if m.content is string else m.content | tojson }}
    {%- elif m.tool_calls is defined and m.tool_calls %}
        {%- if m.tool_calls | length > 1 %}
            {{- raise_exception('one call a turn') }}
        {%- endif %}
        {%- set f = m.tool_calls[0]['function'] %}
        {{- head(m.role) }}
        {%- if builtin is defined and f.name in builtin %}
            {{- f.name + '(' }}
            {%- for name, value in f.arguments | items %}
                {{- name ~ '=' ~ value }}{{ ', ' if not loop.last }}
            {%- endfor %}
            {{- ')' }}
        {%- else %}
            {{- '{"call": "' ~ f.name ~ '", "with": ' ~ f.arguments | tojson ~ '}' }}
        {%- endif %}
    {%- else %}
        {{- head(m.role) + m.content | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{{- head('assistant') if add_generation_prompt }}
"""

MISTRAL = """{%- set state = namespace(expect='user', notes='') -%}
{%- for m in messages if m['role'] not in ['tool'] %}
    {%- if m['role'] == 'system' %}
        {%- set state.notes = m['content'] %}
        {%- continue %}
    {%- endif %}
    {%- if m.get('tool_calls') %}{% continue %}{% endif %}
    {%- if m['role'] != state.expect %}
        {{- raise_exception('expected the ' + state.expect) }}
    {%- endif %}
    {%- set state.expect = 'assistant' if state.expect == 'user' else 'user' %}
{%- endfor %}
{%- set questions = messages | selectattr('role', 'equalto', 'user') | list %}
{{- bos_token }}
{%- for m in messages | rejectattr('role', 'equalto', 'system') %}
    {%- if m.role == 'user' %}
        {%- if tools and m == questions | last %}
            {{- '[AVAILABLE_TOOLS] ' }}
            {%- for key, value in tools[0].function.items() if key != 'return' %}
                {{- key }}: {{ value if value is string else value | tojson }}{{ '; ' if not loop.last }}
            {%- endfor %}
            {{- '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST] ' ~ (state.notes ~ '\\n\\n' if loop.last and state.notes) ~ m.content ~ '[/INST]' }}
    {%- elif m.tool_calls is defined and m.tool_calls is not none %}
        {{- '[TOOL_CALLS] ' }}
        {%- for call in m.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('the id of a call has nine letters') }}
            {%- endif %}
            {%- set body = call.function | tojson %}
            {{- body[:-1] ~ ', "id": "' ~ call.id ~ '"}' ~ (eos_token if loop.last else ', ') }}
        {%- endfor %}
    {%- elif m.role == 'assistant' %}
        {{- ' ' + m.content | trim + eos_token }}
    {%- elif m.role == 'tool' %}
        {{- '[TOOL_RESULTS] ' ~ m.content | string ~ ' of ' ~ m.tool_call_id ~ '[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception('nobody knows the role ' + m.role) }}
    {%- endif %}
{%- endfor %}
"""

QWEN = """{%- set open, close = '<|im_start|>', '<|im_end|>\\n' %}
{%- set ns = namespace(asked=-1) %}
{%- for m in messages[::-1] %}
    {%- if m.role == 'user' and ns.asked < 0 and not(m.content.startswith('<result>') and m.content.endswith('</result>')) %}
        {%- set ns.asked = messages | length - loop.index %}
    {%- endif %}
{%- endfor %}
{%- if tools %}
    {{- open ~ 'system\\n' }}
    {%- for t in tools %}
        {{- t | tojson ~ '\\n' }}
    {%- endfor %}
    {{- close }}
{%- endif %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set said = m.content %}
        {%- set thought = m.reasoning_content if m.reasoning_content is defined and m.reasoning_content is not none else '' %}
        {%- if not thought and '</think>' in said %}
            {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- open + m.role + '\\n' }}
        {%- if loop.index0 > ns.asked and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- said }}
        {%- for call in m.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '\\n' if said or not loop.first }}
            {{- '<call>' ~ call.name ~ ' ' }}
            {%- if call.arguments is string %}
                {{- call.arguments }}
            {%- else %}
                {{- call.arguments | tojson }}
            {%- endif %}
            {{- '</call>' }}
        {%- endfor %}
        {{- close }}
    {%- elif m.role == 'tool' %}
        {{- open + 'user' if loop.previtem is not defined or loop.previtem.role != 'tool' }}
        {{- '\\n<result>' ~ m.content ~ '</result>' }}
        {{- close if loop.last or loop.nextitem.role != 'tool' }}
    {%- else %}
        {{- open + m.role + '\\n' + m.content + close }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- open + 'assistant\\n' }}
    {{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and enable_thinking is false }}
{%- endif %}"""

TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells the <weather> & more", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}}, "required": ["city"]},
    "return": {"type": "string"}}},
    {"type": "function", "function": {"name": "time", "description": "Z\u00fcrich's time", "parameters": {"type": "object", "properties": {}}}}]

USER, ANSWER = {"role": "user", "content": " Who are you? "}, {"role": "assistant", "content": "\nA model.\n"}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {
    "name": "weather", "arguments": {"city": "K\u00f6ln", "days": "2"}}}]}
RESULT = {"role": "tool", "content": "rain", "tool_call_id": "abcdefghi"}
SYSTEM = {"role": "system", "content": " Speak plainly. "}
CONVERSATIONS = [
    [USER], [USER, ANSWER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, {"role": "user", "content": "And now?"}],
    [USER, ANSWER, USER, ANSWER, USER],
    [USER, {"role": "assistant", "content": "<think>\nhm, 2\n</think>\n\nTwo."}, {"role": "user", "content": "Sure?"},
     {"role": "assistant", "content": "<think>\nyes\n</think>\n\nYes."}],
    [USER, {"role": "assistant", "content": "Two.", "reasoning_content": "\none and one\n"}],
    [USER, CALL, RESULT, {"role": "assistant", "content": "It rains."}],
    [SYSTEM, USER, CALL, RESULT, RESULT], [ANSWER], [USER, USER], [],
    [USER, {"role": "assistant", "content": ""}],
]


def render(template, variables):
    try:
        return _compile_jinja_template(template).render(**variables)
    except Exception:
        return None


def main():
    out = {"variables": VARIABLES, "language": [], "templates": {}, "chats": []}
    for template in LANGUAGE + BLANKS:
        text = render(template, VARIABLES)
        out["language"].append({"template": template, **({} if text is None else {"output": text})})
    families = {"llama2": (LLAMA2, "<s>", "</s>"), "llama3": (LLAMA3, "<|begin|>", "<|eot_id|>"),
                "llama31": (LLAMA31, "<|begin|>", "<|eot_id|>"), "mistral": (MISTRAL, "<s>", "</s>"), "qwen": (QWEN, "", "<|im_end|>")}
    for name, (template, bos, eos) in families.items():
        out["templates"][name] = {"template": template, "bos_token": bos, "eos_token": eos}
        for messages in CONVERSATIONS:
            for prompt, extra in [(False, {}), (True, {}), (True, {"tools": TOOLS}), (True, {"enable_thinking": False, "tools": TOOLS[:1],
                                                                                             "builtin": ["weather"]})]:
                variables = {"tools": None, "documents": None, **extra, "messages": messages, "add_generation_prompt": prompt,
                             "bos_token": bos, "eos_token": eos}
                text = render(template, variables)
                out["chats"].append({"family": name, "messages": messages, "prompt": prompt, "variables": extra,
                                     **({} if text is None else {"output": text})})
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        json.dump(out, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    refused = [c["template"] for c in out["language"] if "output" not in c]
    print(len(out["language"]), "of the language,", len(refused), "refused;", len(out["chats"]), "chats,",
          sum("output" not in c for c in out["chats"]), "refused")
    for template in refused:
        print("  refused:", template)


if __name__ == "__main__":
    sys.exit(main())
