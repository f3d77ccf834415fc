// @huggingface/tokenizers on what a GGUF file has of a tokenizer: the judge where two others differ.
import { Tokenizer } from '@huggingface/tokenizers'
import { PRETOKENIZER_FORMS } from '../dist/esm/model/pretokenizer-patterns.js'
import { regularExpression } from '../dist/esm/model/pretokenizers.js'

const split = (Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false })

/** In JavaScript's notation, as published but for that. */
const patternOf = (published) => (published === '\\s+$' ? '\\p{White_Space}+$' : regularExpression(published).source)

/** SentencePiece's merges as its converters write them: every way to part a token in two, the highest score of the whole first. */
function mergesOf(tokens, scores) {
  const ids = new Map(tokens.map((token, id) => [token, id]))
  const merges = []
  for (const [token, id] of ids) {
    const characters = Array.from(token)
    for (let at = 1; at < characters.length; at++) {
      const [left, right] = [characters.slice(0, at).join(''), characters.slice(at).join('')]
      if (ids.has(left) && ids.has(right)) merges.push([scores[id], ids.get(left), ids.get(right), left, right])
    }
  }
  merges.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2])
  return merges.map(([, , , left, right]) => [left, right])
}

const NORMAL = 1

export function createJudge(metadata) {
  const value = (key) => metadata[`tokenizer.ggml.${key}`]
  const tokens = value('tokens')
  const kinds = value('token_type') ?? tokens.map(() => NORMAL)
  const whole = (special) =>
    tokens
      .map((content, id) => ({
        id,
        content,
        special: kinds[id] !== 4,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false
      }))
      .filter(
        ({ id, content }) => content !== '' && (kinds[id] === 4 || (special && (kinds[id] === 3 || kinds[id] === 2)))
      )
  const isPhi = /phi-?3/i.test(metadata['general.name'] ?? '')
  const form = PRETOKENIZER_FORMS.find(({ names }) => names.includes(value('pre') ?? 'default'))
  const overCharacters = value('model') !== 'gpt2'
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: '▁' }
  const prepend =
    value('model') === 'llama' && (value('add_space_prefix') ?? true) ? [{ type: 'Prepend', prepend: '▁' }] : []
  const steps = value('model') === 'llama' ? [] : form.patterns.map((pattern) => split(patternOf(pattern)))
  const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
  const merges =
    value('model') === 'llama'
      ? mergesOf(
          tokens.map((token, id) => ([2, 3, 6].includes(kinds[id]) ? '' : token)),
          value('scores')
        )
      : value('merges')
  const pretokenizers = overCharacters ? steps : [...steps, bytes]
  const build = (special) =>
    new Tokenizer(
      {
        version: '1.0',
        added_tokens: whole(special).map((token) =>
          isPhi ? { ...token, rstrip: !['<unk>', '<s>', '<|endoftext|>'].includes(token.content) } : token
        ),
        normalizer: overCharacters ? { type: 'Sequence', normalizers: [...prepend, spaces] } : null,
        pre_tokenizer: pretokenizers.length > 0 ? { type: 'Sequence', pretokenizers } : null,
        post_processor: null,
        decoder: null,
        model: {
          type: 'BPE',
          vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
          merges,
          unk_token: overCharacters ? (tokens[kinds.indexOf(2)] ?? null) : null,
          fuse_unk: overCharacters,
          byte_fallback: overCharacters,
          ignore_merges: form?.ignoreMerges ?? false
        }
      },
      {}
    )
  const built = new Map()
  return (text, special) => {
    if (!built.has(special)) built.set(special, build(special))
    return text === '' ? [] : built.get(special).encode(text, { add_special_tokens: false }).ids
  }
}
