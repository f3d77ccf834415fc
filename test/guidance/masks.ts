/** Masks against every token tried for itself. */
import t from 'tap'
import { compileGuide, type JsonSchema, type TokenBytes } from '../../lib/guidance/index.js'
import { random } from '../fixtures/weights.js'
import { randomSchema } from './random-schema.js'
import { begin, everyByte, tokensOf, vocabularies } from './vocabularies.js'

t.test('a mask has the tokens that may come, and no others', async (t) => {
  const next = random(21)
  let states = 0
  for (let i = 0; i < 12; i++) {
    const schema: JsonSchema | undefined = i === 0 ? undefined : randomSchema(next, 2)
    for (const [kind, tokens] of Object.entries(vocabularies)) {
      const path: number[] = []
      const state = begin(schema, tokens)
      for (let length = 0; length < 20 && !state.ended; length++) {
        const allowed = tokensOf(state.mask()!, tokens.vocab)
        const tried = Array.from({ length: tokens.vocab }, (_, id) => id).filter((id) => {
          const own = begin(schema, tokens)
          for (const token of path) own.accept(token)
          return tokens.eosIds.has(id) ? own.complete : own.accept(id)
        })
        t.same(allowed, tried, `${kind} after ${path.length} tokens of ${JSON.stringify(schema)}`)
        states++
        const going = allowed.filter((id) => !tokens.eosIds.has(id))
        const token = going[Math.floor(next() * going.length)]!
        state.accept(token)
        path.push(token)
      }
    }
  }
  t.ok(states > 150, `${states} states`)
})

t.test('rows that no token has, and tokens that are no text, are never allowed', async (t) => {
  const [tokens] = Object.values(vocabularies)
  const mask = compileGuide({ type: 'json_object' }, tokens!, tokens!.vocab + 100)!
    .start()
    .mask()!
  t.equal(mask.length, Math.ceil((tokens!.vocab + 100) / 32))
  const allowed = tokensOf(mask, mask.length * 32)
  t.ok(allowed.every((id) => id < tokens!.vocab && !tokens!.isControl(id)))
  t.equal(compileGuide({ type: 'text' }, tokens!, tokens!.vocab), undefined)
})

t.test('long counts: the mask is that of the count, near its end too', async (t) => {
  const schema = { type: 'string', minLength: 40, maxLength: 60 }
  for (const tokens of Object.values(vocabularies)) {
    const state = begin(schema, tokens)
    const id = (text: string) =>
      Array.from({ length: tokens.vocab }, (_, own) => own).find((own) =>
        Buffer.from(tokens.tokenBytes(own)).equals(Buffer.from(text))
      )!
    state.accept(id('"'))
    const longest = () => Math.max(...tokensOf(state.mask()!, tokens.vocab).map((own) => tokens.tokenBytes(own).length))
    const first = longest()
    for (let i = 0; i < 60; i++) {
      const ends = tokensOf(state.mask()!, tokens.vocab).includes(id('"'))
      t.equal(ends, i >= 40, `after ${i} characters`)
      t.ok(state.accept(id('1')))
    }
    t.ok(first > 1 && longest() === 1, 'at the end only the quote is left')
    t.notOk(state.accept(id('1')))
  }
})

t.test('what is remembered may be forgotten at any time', async (t) => {
  // More states than are kept: every text of digits is one.
  const schema = { type: 'array', items: { type: 'string', minLength: 0, maxLength: 30_000 } }
  const [one, other] = [begin(schema), begin(schema)]
  one.accept(0x5b)
  one.accept(0x22)
  other.accept(0x5b)
  const before = one.mask()!.slice()
  for (let i = 0; i < 60_000; i++)
    if (!one.accept(0x61)) one.accept(one.complete ? 0x5d : 0x22) || one.accept(0x2c) || one.accept(0x22)
  t.same(
    tokensOf(other.mask()!, everyByte.vocab).map((id) => String.fromCharCode(id)),
    ['\n', ' ', '"', ']']
  )
  other.accept(0x22)
  t.same(other.mask(), before)
  t.ok(one.mask())
})

t.test('guides are kept for the next requests, of those that remember much only the last ones', async (t) => {
  const guide = (name: string, rows: number) =>
    compileGuide({ type: 'json_schema', schema: { type: 'array', items: { const: name } } }, everyByte, rows)!
  for (const [rows, kept] of [
    [everyByte.vocab, true],
    // A mask of half a megabyte.
    [2 ** 22, false]
  ] as const) {
    const text = 'abcdefghijklmnopqrstuvwxyzabcd'
    const [first, ...others] = ['A', 'B', 'C'].map((name) => {
      const own = guide(name + text, rows)
      const state = own.start()
      for (const byte of Buffer.from(`["${name}${text}`)) {
        state.mask()
        state.accept(byte)
      }
      return own
    })
    t.equal(guide(`C${text}`, rows), others[1], 'the last one is the same')
    t.equal(guide(`A${text}`, rows) === first, kept, `one of before, with ${rows} rows`)
  }
})

t.test('of more ways than are followed at once, what a mask has is taken', async (t) => {
  const letters = 'abcdefgh'
  const name = (i: number): string => Array.from({ length: 4 }, (_, at) => letters[(i >> (3 * at)) & 7]).join('')
  const words = [...letters].flatMap((a) => [...letters].flatMap((b) => [`"${a}${b}`, `{"${a}${b}`, `${a}${b}`]))
  const texts = [
    ...Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte)),
    ...words.map((word) => Buffer.from(word))
  ]
  const tokens: TokenBytes = {
    vocab: texts.length + 1,
    eosIds: new Set([texts.length]),
    isControl: (id) => id === texts.length,
    tokenBytes: (id) => texts[id] ?? new Uint8Array()
  }
  // Each object may begin with one of five members, or with another one.
  const anyOf = Array.from({ length: 700 }, (_, i) => ({
    type: 'object',
    properties: Object.fromEntries(Array.from({ length: 5 }, (_, j) => [name(i * 37 + j * 811), { type: 'null' }]))
  }))
  const guide = compileGuide({ type: 'json_schema', schema: { anyOf } }, tokens, tokens.vocab)!
  const start = () => guide.start()
  const allowed = tokensOf(start().mask()!, tokens.vocab)
  t.ok(allowed.length > 60, `${allowed.length} tokens`)
  t.same(
    allowed.filter((id) => !start().accept(id)),
    [],
    'each of them'
  )
  const opened = start()
  opened.accept(0x7b)
  for (const id of tokensOf(opened.mask()!, tokens.vocab)) {
    const state = start()
    state.accept(0x7b)
    t.ok(state.accept(id), Buffer.from(tokens.tokenBytes(id)).toString())
  }
})
