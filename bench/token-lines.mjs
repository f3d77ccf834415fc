// Seeded lines of text for tokenizers: what people write, and what nobody does.
import { seededRandom } from './harness.mjs'

const CODE = [
  'for (let i = 0; i < n; i++) { total += xs[i]?.value ?? 0 }',
  'def f(x, *args, **kwargs):\n\treturn {k: v for k, v in x.items() if v is not None}',
  '    if (a==b&&c!=d||!e) goto   out;  // TODO(x): 0xDEADBEEF',
  'SELECT "a"."b", COUNT(*) FROM t WHERE x >= 12345.678e-9 GROUP BY 1;\r\n',
  '<div class="x-y_z">{{ user.name }}</div><!-- \t -->',
  'template <typename T> std::vector<T>&& move(T&&... xs) noexcept(false);',
  "git commit -m \"fix: don't, won't, I'LL, they'Ve\" && rm -rf ./build/*",
  '#!/usr/bin/env bash\nset -euo pipefail\n\n\n\nfor f in *.{c,h}; do echo "$f"; done\n',
  'λx.∀y∃z(x→y∧¬z) ≠ ∅ ⇒ ∑ᵢ₌₀ⁿ xᵢ² ≤ ½·π',
  'camelCaseWordsHTTPServerXMLParser2JSON snake_case_words kebab-case-words SCREAMING_SNAKE'
]
const WORDS = [
  'the quick brown fox',
  'Straße naïve façade',
  'ÀÉÎÕÜ àéîõü ǅ',
  'Ελληνικά ΣΊΣΥΦΟΣ',
  'Привет МИР',
  'שלום עולם',
  'العربية ١٢٣٤٥٦ مرحبا',
  'فارسی ۱۲۳',
  'हिन्दी में क्या है',
  'বাংলা ভাষা',
  'ภาษาไทยง่าย',
  'ខ្មែរ',
  'မြန်မာ',
  '中文字符测试，你好。',
  '日本語テスト、カタカナ、ひらがな。',
  '한국어 테스트입니다',
  '㈱①②③Ⅳ',
  'ﬁﬂ ﷺ ｆｕｌｌｗｉｄｔｈ　１２３',
  'e\u0301a\u0300o\u0308 n\u0303',
  'Z\u0351\u036b\u0343A\u0349L\u0347G\u0321O\u0322',
  'ÅÅ Ωω ſ K',
  '𝕳𝖊𝖑𝖑𝖔 𝟘𝟙𝟚',
  '𠀀𠀁 𪜀',
  '😀👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪1️⃣',
  '👨🏿‍🚀 🧑‍💻❤️‍🔥',
  '\u200b\u200c\u200d\ufeff\u00ad',
  '…—–‘’“”«»‹›„',
  '$€£¥₹ ±×÷√∞≈ ©®™ ™️',
  "we've I'm you're he'd it's 'tis rock'n'roll O'Neill l'été don’t",
  "I'LL WE'VE 'S'T'RE",
  '3.14159 1,000,000 1234567890 12 123 1234 12345 0x1F 1e-9 ½ ² ³ 4½',
  '٣٤٥ ३४५ 五六七 Ⅷ'
]
const SPACES = [
  ' ',
  '  ',
  '   ',
  '\t',
  '\n',
  '\n\n',
  '\r\n',
  ' \n',
  '\n ',
  '\t\t',
  '\u00a0',
  '\u2003',
  '\u3000',
  '\u0085',
  '\v',
  '\f',
  '        ',
  '\u2028'
]
/** No UTF-8: continuation bytes alone, cut sequences, overlong forms, surrogates, lead bytes that are none. */
const DAMAGED = [
  '80',
  'ff',
  'c3',
  'e4b8',
  'f09f98',
  'c080',
  'c0bc',
  'e08080',
  'f0808080',
  'eda080',
  'edb08c',
  'eda0bdedb880',
  'fe',
  'f8888080',
  'e42041',
  'f0202020',
  'c320',
  'bf',
  'e2',
  'e296'
]
/** Beyond the last code point: llama.cpp throws. */
const BEYOND = ['f4908080', 'f7bfbfbf']

/** `count` lines of a seed: {bytes, text} of each; no `text` where the bytes are no UTF-8. `specials`: texts of special tokens. */
export function tokenLines(count, seed, specials = []) {
  const next = seededRandom(seed)
  const below = (n) => Math.floor(next() * n)
  const pick = (list) => list[below(list.length)]
  const many = (n, make) => Array.from({ length: 1 + below(n) }, make).join('')
  const code = () => 0x20 + below([0x60, 0x300, 0x3000, 0xd7e0, 0x1f000][below(5)])
  const character = () => String.fromCodePoint(code() < 0xd800 ? code() % 0xd800 : 0x1f300 + below(0x300))
  const kinds = [
    () => pick(CODE),
    () => many(6, () => pick(WORDS) + pick(SPACES)),
    () => many(8, () => pick(SPACES)) + pick(WORDS) + many(5, () => pick(SPACES)),
    () => ' '.repeat(below(70)) + pick(['x', '', '1', '中', '\n']) + '\n'.repeat(below(6)) + ' '.repeat(below(20)),
    () => many(12, () => pick([() => pick(WORDS), () => pick(CODE), () => pick(SPACES), () => String(below(1e9))])()),
    () => many(40, () => String(below(10 ** (1 + below(6)))) + pick(['', ' ', ',', '.', 'a', '-', '٣'])),
    () => many(60, character),
    () => many(30, () => pick(['\u0301', '\u0300', '\u20dd', 'e', 'A', 'ー', 'ʰ', "'", 's', 'LL', ' '])),
    () =>
      many(12, () =>
        pick([
          '!',
          '?',
          '...',
          '"',
          "'",
          '(',
          ')',
          '[',
          ']',
          '{',
          '}',
          '<|',
          '|>',
          '#',
          '\\',
          '/',
          '~',
          '`',
          ' ',
          'a',
          '\n'
        ])
      ),
    () =>
      pick(WORDS) +
      pick(specials.length > 0 ? specials : ['<|x|>']) +
      pick(SPACES) +
      pick(WORDS) +
      pick(specials.length > 0 ? specials : ['</x>'])
  ]
  return Array.from({ length: count }, (_, i) => {
    if (i % 9 !== 8) {
      const text = kinds[i % kinds.length]().toWellFormed()
      return { text, bytes: Buffer.from(text) }
    }
    const damage = below(20) === 0 ? BEYOND : DAMAGED
    const parts = Array.from({ length: 1 + below(6) }, () => [
      Buffer.from(pick([...WORDS, ...SPACES, 'a', ' b'])),
      Buffer.from(pick(damage), 'hex')
    ])
    return { bytes: Buffer.concat(parts.flat()) }
  })
}
