"""The chat format as a Jinja template, for other programs that load a chatsmith model.

chatsmith itself never executes a template: `chatsmith.text.chat.render` is its renderer, and a test proves
that both give the same ids. With one difference, which a template cannot avoid: it makes one string of the
marks and of what people wrote, so a program that tokenizes that string reads `<|assistant_end|>` in a user's
message as the token. Whoever serves strangers should encode messages apart from the marks, as `render` does.
"""

_TEMPLATE = """\
{{- '<|bos|>' -}}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'user', 'assistant', 'tool'] -%}
        {{- raise_exception('unknown role: ' + message.role) -}}
    {%- endif -%}
    {{- '<|' + message.role + '_start|>' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif message.role == 'assistant' and part.type in ['python', 'output'] -%}
                {{- '<|' + part.type + '_start|>' + part.text + '<|' + part.type + '_end|>' -}}
            {%- else -%}
                {{- raise_exception('unknown part: ' + part.type) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|' + message.role + '_end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant_start|>' -}}
{%- endif -%}
"""


def chat_template() -> str:
    """A Jinja template of `messages` and `add_generation_prompt`, as `transformers` and others execute it.

    Messages have a role and a content: a string, or a list of parts with `type` and `text`. The template
    checks roles and parts, not their order.
    """
    return _TEMPLATE
