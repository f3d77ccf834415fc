import t from 'tap'
import { isEngineError } from '../../lib/errors/index.js'
import { renderChat } from '../../lib/model/chat-template.js'

// What the templates of published families ask of Jinja, in templates written for this test.
const tokens = { bos: '<s>', eos: '</s>' }
const messages = [
  { role: 'system', content: ' be brief ' },
  { role: 'user', content: 'hi' },
  { role: 'assistant', content: '<think>so</think>\n\nhello' },
  { role: 'user', content: 'again' }
]
const now = new Date(2026, 2, 7, 15, 4, 5)

function reason(template: string, given: readonly { role: string; content: unknown }[] = messages): unknown {
  try {
    renderChat(template, given, tokens)
  } catch (error) {
    return isEngineError(error) ? error.details.reason : error
  }
}

t.test('channels and a date, as in the harmony form', async (t) => {
  const template = `{%- macro header(model) -%}
You are {{ model if model else "an assistant" }}.
Current date: {{ strftime_now("%Y-%m-%d") }}
{%- set effort = reasoning_effort if reasoning_effort is defined else "medium" -%}
{{- "\\nReasoning: " + effort }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}{{ header(model_identity) }}{{ "<|end|>" -}}
{%- set state = namespace(last_user=-1) -%}
{%- for m in messages -%}{%- if m.role == "user" -%}{%- set state.last_user = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages[1:] -%}
{%- if m.role == "assistant" and loop.index0 < state.last_user -%}
{{- "<|start|>assistant<|channel|>final<|message|>" + m.content.split("</think>")[-1].lstrip("\\n") + "<|end|>" }}
{%- elif m.role == "user" -%}{{- "<|start|>user<|message|>" + m.content + "<|end|>" }}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}`
  t.equal(
    renderChat(template, messages, tokens, { now }),
    '<|start|>system<|message|>You are an assistant.\nCurrent date: 2026-03-07\nReasoning: medium<|end|>' +
      '<|start|>user<|message|>hi<|end|><|start|>assistant<|channel|>final<|message|>hello<|end|>' +
      '<|start|>user<|message|>again<|end|><|start|>assistant'
  )
})

t.test('what transformers gives besides', async (t) => {
  t.equal(
    renderChat('{{ tools is none }} {% if tools %}tools{% endif %}{{ documents is defined }}', [], tokens),
    'true true'
  )
})

t.test('dates', async (t) => {
  const date = (format: string) => renderChat(`{{ strftime_now('${format}') }}`, [], tokens, { now })
  t.equal(date('%B %d, %Y'), 'March 07, 2026')
  t.equal(date('%d %b %y'), '07 Mar 26')
  t.equal(date('%A %a %H:%M:%S %I %p %m %% %Q'), 'Saturday Sat 15:04:05 03 PM 03 % %Q')
  t.match(renderChat("{{ strftime_now('%Y') }}", [], tokens), /^20\d\d$/, 'the present')
  t.equal(renderChat('{{ strftime_now is defined }}', [], tokens), 'true')
})

t.test('turns that must alternate, as in Mixtral', async (t) => {
  const template = `{%- if messages[0]["role"] == "system" -%}{%- set system = messages[0]["content"] | trim -%}{%- set turns = messages[1:] -%}
{%- else -%}{%- set turns = messages -%}{%- endif -%}
{{- bos_token -}}
{%- for m in turns -%}
{%- if (m["role"] == "user") != (loop.index0 % 2 == 0) -%}{{- raise_exception("roles must alternate") -}}{%- endif -%}
{%- if m["role"] == "user" -%}{{- " [INST] " + (system + "\\n\\n" if loop.first and system is defined else "") + m["content"] + " [/INST]" -}}
{%- else -%}{{- " " + m["content"] + eos_token -}}{%- endif -%}
{%- endfor -%}`
  t.equal(
    renderChat(template, messages, tokens),
    '<s> [INST] be brief\n\nhi [/INST] <think>so</think>\n\nhello</s> [INST] again [/INST]'
  )
  t.match(reason(template, messages.slice(2)), /roles must alternate/)
  t.equal(
    (reason('{{ raise_exception(messages[0].content) }}', [{ role: 'user', content: 'x'.repeat(5000) }]) as string)
      .length,
    1000
  )
})

t.test('content in parts, tools as JSON, and loops with exits', async (t) => {
  const given = [
    {
      role: 'user',
      content: [
        { type: 'text', text: 'a "b" <c>' },
        { type: 'text', text: 'é' }
      ]
    }
  ]
  const parts = `{%- for m in messages -%}
{%- if m.content is string -%}{{ m.content }}{%- else -%}{%- for p in m.content if p.type == 'text' -%}{{ p.text }}{{ '|' if not loop.last }}{%- endfor -%}{%- endif -%}
{%- endfor -%}`
  t.equal(renderChat(parts, given, tokens), 'a "b" <c>|é')
  t.equal(
    renderChat('{{ messages[0].content[0] | tojson }}', given, tokens),
    '{"type": "text", "text": "a \\"b\\" <c>"}'
  )
  t.equal(
    renderChat('{{ {"a": [1, true, none]} | tojson(indent=2) }}', [], tokens),
    '{\n  "a": [\n    1,\n    true,\n    null\n  ]\n}'
  )
  t.equal(
    renderChat(
      '{%- for i in range(9) -%}{%- if i == 1 -%}{%- continue -%}{%- endif -%}{%- if i == 4 -%}{%- break -%}{%- endif -%}{{ i }}{%- endfor -%}',
      [],
      tokens
    ),
    '023'
  )
  t.equal(renderChat("{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}", [], tokens), 'a1b2')
  t.equal(
    renderChat(
      '{{ undefined_name is defined }}{{ (other or "x") | upper }}{{ [3, 1, 2] | sort | join(",") }}',
      [],
      tokens
    ),
    'falseX1,2,3'
  )
})

t.test('what a template cannot do', async (t) => {
  t.match(reason('{% set ns = namespace(a=1) %}{% set ns2.b = 2 %}'), /./)
  t.match(reason('{{ strftime_now.constructor("return process")() }}'), /./)
  t.match(reason('{{ messages[0].content.constructor.constructor("return process")() }}'), /./)
  t.equal(renderChat('{{ messages.__proto__ is defined }}', messages, tokens), 'false')
})

t.test('a template that would take for ever, or all memory', async (t) => {
  const twice = (name: string, value: string) => `{% set ${name} = ${value} %}`.repeat(40)
  for (const [what, template] of [
    [
      'a macro that calls itself twice',
      '{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}'
    ],
    ['a list of twice the length', `{% set a = [1] %}${twice('a', 'a + a')}`],
    ['a list of two of itself', `{% set a = [1] %}${twice('a', '[a, a]')}{{ a | tojson }}`],
    ['a text of twice the length', `{% set a = 'x' %}${twice('a', 'a ~ a')}`],
    [
      'a namespace that holds itself',
      '{% set n = namespace(a=1) %}{% set n.a = [n, n] %}{% set n.a = [n.a, n.a] %}{{ n.a | tojson }}'
    ]
  ] as const) {
    t.match(reason(template), /template may (do|make)|inside of another/, what)
  }
})

t.test('long conversations are no such template', async (t) => {
  const turns = Array.from({ length: 3000 }, (_, i) => ({
    role: i % 2 === 0 ? 'user' : 'assistant',
    content: `${i} `.repeat(50)
  }))
  const template = `{%- set ns = namespace(last=0) -%}
{%- for m in messages[::-1] -%}{%- set index = (messages | length - 1) - loop.index0 -%}
{%- if m.role == 'user' and ns.last == 0 -%}{%- set ns.last = index -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}<{{ m.role }}>{{ m.content.split('</think>')[-1] | trim }}{{ '!' if loop.index0 == ns.last }}{%- endfor -%}`
  const text = renderChat(template, turns, tokens)
  t.equal(
    text.length,
    turns.reduce((sum, { role, content }) => sum + role.length + 2 + content.trim().length, 1)
  )
  const large = [{ role: 'user', content: 'a b '.repeat(2 ** 20) }]
  t.equal(renderChat('{{ messages[0].content | trim | upper }}', large, tokens).length, 2 ** 22 - 1)
})
