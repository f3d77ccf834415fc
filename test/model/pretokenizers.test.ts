import t from 'tap'
import { GPT2, PRETOKENIZER_FORMS } from '../../lib/model/pretokenizer-patterns.js'
import {
  cutAt,
  findPretokenizer,
  knownCut,
  regularExpression,
  SUPPORTED_PRETOKENIZERS,
  splitWords
} from '../../lib/model/pretokenizers.js'

const words = (name: string, text: string) => splitWords(text, findPretokenizer(name)!)

t.test('words of each family', async (t) => {
  for (const [name, text, expected] of [
    ['gpt-2', "I'll  go 12345!\n", ['I', "'ll", ' ', ' go', ' 12345', '!', '\n']],
    ['starcoder', 'x 123', ['x', ' ', '1', '2', '3']],
    ['dbrx', "I'LL 12345", ['I', "'LL", ' ', '123', '45']],
    ['qwen35', 'e\u0301a 1', ['e\u0301a', ' ', '1']],
    [
      'gpt-4o',
      "camelCaseWord's HTTPServer ÀÉa 1234\n/x",
      ['camel', 'Case', "Word's", ' HTTPServer', ' ÀÉa', ' ', '123', '4', '\n', '/x']
    ],
    ['gpt-4o', "ABC'LL x", ["ABC'LL", ' x']],
    ['tekken', "Word's 12", ['Word', "'s", ' ', '1', '2']],
    ['deepseek-llm', 'Straße 中文!?\n 12  ', ['Stra', 'ß', 'e', ' ', '中文', '!?', '\n', ' ', '1', '2', '  ']],
    ['deepseek-coder', ' if(x)\n12', [' if', '(', 'x', ')', '\n', '1', '2']],
    ['deepseek-v3', '.map 1234 中の文x!\n', ['.map', ' ', '123', '4', ' ', '中の文', 'x', '!\n']],
    ['falcon', '12345 a--b', ['123', '45', ' a', '--', 'b']],
    ['bloom', 'a.b, c(d', ['a', '.', 'b', ',', ' c', '(', 'd']],
    ['viking', 'a12', ['a', '1', '2']],
    ['jais-2', `${' '.repeat(11)}x`, [' '.repeat(8), '  ', ' x']],
    ['chameleon', 'IMGIMGABZ    x\n', ['IMGIMGABZ', '    ', 'x', '\n']],
    ['tiny_aya', '1234567 12345a', ['1', '234', '567', ' ', '123', '45', 'a']],
    ['afmoe', '1234567a', ['1', '234', '567', 'a']],
    ['superbpe', 'ab 1234 567', ['ab ', '1', '234', ' ', '567']],
    ['bailingmoe', 'a\n\n\nb', ['a', '\n\n\n', 'b']],
    ['seed-coder', 'a!!\nb', ['a', '!!', '\n', 'b']],
    ['ufakzeka', "a's", ['a', "'s"]],
    ['kimi-k2', "中文abc's 1234", ['中文', "abc's", ' ', '123', '4']],
    ['laguna', 'a\n\nb', ['a', '\n\n', 'b']],
    ['exaone-moe', 'a b 1', ['a b', ' ', '1']],
    ['minicpm5', '12345', ['123', '45']],
    ['youtu', '한글x「中」', ['한글', 'x', '「', '中', '」']],
    ['spark2_5', 'a!\n', ['a', '!', '\n']],
    ['gemma4', '▁a▁b\n\nc', ['▁a▁b', '\n\n', 'c']]
  ] as const) {
    t.same(words(name, text), expected, name)
  }
  for (const space of ['\u0085', '\u00a0', '\u3000'])
    t.same(words('gpt-2', `a${space}${space}b`), ['a', space, space, 'b'])
})

t.test('names and patterns', async (t) => {
  t.equal(new Set(SUPPORTED_PRETOKENIZERS).size, SUPPORTED_PRETOKENIZERS.length, 'a name has one form')
  t.equal(findPretokenizer(undefined), findPretokenizer('default'))
  t.equal(findPretokenizer('martian'), undefined)
  for (const { patterns } of PRETOKENIZER_FORMS)
    for (const pattern of patterns) t.ok(knownCut(pattern), pattern.slice(0, 60))
  const breaks = PRETOKENIZER_FORMS.find(({ names }) => names.includes('deepseek-v3'))!.patterns[2]!.replaceAll(
    '\\r\\n',
    '\r\n'
  )
  t.ok(breaks.includes('\r\n') && knownCut(breaks), 'line breaks as they are')
  t.ok(knownCut('[一-龥\u3040-ゟ゠-ヿ]+'), 'characters as they are')
  t.equal(knownCut('(a+)+$'), undefined, 'a foreign expression is not run')
  t.equal(knownCut('('), undefined)
  t.equal(knownCut(GPT2.repeat(200)), undefined)
  t.equal(knownCut(`(?i:${'[a]'.repeat(1300)}`), undefined, 'looking at one takes no time either')
  const parts: string[] = []
  cutAt('--')('a--b--', (part) => parts.push(part))
  t.same(parts, ['a', '--', 'b', '--'])
  t.equal(regularExpression("(?i:'s|[dm])").source, "(?:'[sS]|[dmDM])")
})

// Every form takes such texts in a moment; one that looked at them twice per character would take hours.
t.test('hostile texts', async (t) => {
  const n = 50_000
  const texts = [' ', '\n', '\u0301', 'A', '7', '٣', "'", '中', '\u0001', ' a', 'Aa', '\t\n'].map((part) =>
    part.repeat(n / part.length)
  )
  for (const { names } of PRETOKENIZER_FORMS) {
    for (const text of texts) {
      for (const end of ['1', 'x']) {
        const found = words(names[0]!, text + end)
        t.equal(found.join(''), text + end, `${names[0]} ${JSON.stringify(text.slice(0, 2))}`)
      }
    }
  }
})
