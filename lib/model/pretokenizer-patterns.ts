/**
 * How published models cut text into words before byte pairs are merged: the patterns of their tokenizer.json files, in the notation of
 * those files, and the names that GGUF files give them (`tokenizer.ggml.pre`). Where llama.cpp only comes near a pattern, this is the pattern.
 */

export interface PretokenizerForm {
  /** Applied one after the other: each cuts the pieces of the one before; what does not match stays a piece. */
  readonly patterns: readonly string[]
  /** A word that is a token is taken whole, whatever the merges say. */
  readonly ignoreMerges?: boolean
  /** The start token is added where the file does not say. */
  readonly addBos?: boolean
  /** Merges run over characters, with U+2581 for spaces, and not over the byte-level alphabet. */
  readonly characters?: boolean
  readonly names: readonly string[]
}

const raw = String.raw

export const GPT2 = raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const SPACES = raw`|\s*[\r\n]+|\s+(?!\S)|\s+`

/** The family of Llama 3 and Qwen, which differ in how many digits stay together and in what a letter is. */
const modern = (digits: string, letter = raw`\p{L}`, inWord = raw`\p{L}\p{N}`) =>
  raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?${letter}+|${digits}| ?[^\s${inWord}]+[\r\n]*${SPACES}`

const DIGIT = raw`\p{N}`
const UP_TO_3 = raw`\p{N}{1,3}`
const QWEN2 = modern(DIGIT)

/** The family of o200k: a word may begin with capitals, or be nothing else; `ending` is what may follow it. */
const UPPER = raw`\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}`
const LOWER = raw`\p{Ll}\p{Lm}\p{Lo}\p{M}`
const cased = (digits: string, ending: string, not = '', breaks = raw`\r\n/`) =>
  raw`[^\r\n\p{L}\p{N}]?[${UPPER}${not}]*[${LOWER}${not}]+${ending}|[^\r\n\p{L}\p{N}]?[${UPPER}${not}]+[${LOWER}${not}]*${ending}` +
  raw`|${digits}| ?[^\s\p{L}\p{N}]+[${breaks}]*${SPACES}`

/** The family of DeepSeek V3: marks count as letters, and punctuation may lead a word of ASCII letters. */
const PUNCTUATED = raw`[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_${'`'}{|}~][A-Za-z]+`
const deepseek3 = (after: string) =>
  raw`${PUNCTUATED}|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+${after}|\s+(?!\S)|\s+`
const CJK = raw`[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+`
const CJK_WIDE = raw`[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+`

/** Letters that DeepSeek LLM keeps together: those of scripts with capitals. */
const CASED_LETTERS = [
  raw`A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377`,
  raw`\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556`,
  raw`\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15`,
  raw`\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe`,
  raw`\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113`,
  raw`\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184`,
  raw`\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e`,
  raw`\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\u{10400}-\u{1044f}\u{104b0}-\u{104d3}`,
  raw`\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}`
].join('')

/** Groups of three digits, counted from the right; see `pretokenizers.ts` for how they are found in linear time. */
export const THREES = raw`\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))`
export const THREES_TO_BOUNDARY = raw`\d{1,3}(?=(?:\d{3})*\b)`
export const THREES_EMPTY = raw`(?=(\d{3})+(?!\d))`

/** A step of tokenizer.json: runs of punctuation, or each for itself. */
export const PUNCTUATION = {
  Contiguous: raw`[\p{P}\$\+<=>\^~\|${'`'}]+`,
  Isolated: raw`[\p{P}!-/:-@\[-${'`'}{-~]`
}

const bloom = raw` ?[^(\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+`
const lines = raw`[^\n]+|[\n]+`

export const PRETOKENIZER_FORMS: readonly PretokenizerForm[] = [
  { names: ['default'], patterns: [raw`[\p{P}\$\+<=>\^~\|]+`, GPT2, raw`\p{N}+`, '[0-9][0-9][0-9]'] },
  {
    names: [
      'gpt-2',
      'olmo',
      'mpt',
      'phi-2',
      'jais',
      'exaone4',
      'trillion',
      'gigachat',
      'a.x-4.0',
      'mellum',
      'modern-bert',
      'granite-docling',
      'jina-es',
      'jina-de',
      'jina-v1-en',
      'jina-v2-es',
      'jina-v2-de',
      'jina-v2-code',
      'roberta-bpe'
    ],
    patterns: [GPT2]
  },
  {
    names: ['starcoder', 'refact', 'command-r', 'smollm', 'codeshell', 'exaone', 'minerva-7b', 'mellum2'],
    patterns: [DIGIT, GPT2]
  },
  {
    names: ['qwen2', 'deepseek-r1-qwen', 'stablelm2', 'megrez', 'kormo', 'f2llmv2', 'hunyuan', 'solar-open', 'grok-2'],
    patterns: [QWEN2]
  },
  { names: ['qwen35'], patterns: [modern(DIGIT, raw`[\p{L}\p{M}]`, raw`\p{L}\p{M}\p{N}`)] },
  { names: ['dbrx', 'smaug-bpe', 'glm4', 'chatglm-bpe'], patterns: [modern(UP_TO_3)] },
  {
    names: ['llama-bpe', 'llama3', 'llama-v3', 'falcon3', 'falcon-h1', 'pixtral', 'midm-2.0', 'lfm2', 'jina-v5-nano'],
    patterns: [modern(UP_TO_3)],
    ignoreMerges: true,
    addBos: true
  },
  {
    names: ['gpt-4o', 'llama4', 'kanana2', 'talkie', 'minimax-m2'],
    patterns: [cased(UP_TO_3, `${CONTRACTIONS}?`)]
  },
  {
    names: ['granite-embed-multi-97m'],
    patterns: [cased(UP_TO_3, `${CONTRACTIONS}?`)],
    ignoreMerges: true
  },
  { names: ['tekken'], patterns: [cased(DIGIT, '')], ignoreMerges: true, addBos: true },
  {
    names: ['deepseek-llm'],
    patterns: [
      raw`[\r\n]`,
      raw`\s?[${CASED_LETTERS}]+`,
      raw`\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+`,
      raw`\s+$`,
      CJK_WIDE,
      DIGIT
    ]
  },
  { names: ['deepseek-coder'], patterns: [raw`[\r\n]`, raw`\s?\p{L}+`, raw`\s?\p{P}+`, CJK_WIDE, DIGIT] },
  {
    names: ['deepseek-v3', 'hunyuan-dense', 'joyai-llm', 'hy_v4'],
    patterns: [UP_TO_3, CJK, deepseek3(raw`[\r\n]*|\s*[\r\n]+`)]
  },
  { names: ['spark2_5'], patterns: [UP_TO_3, CJK, deepseek3(raw`|[\r\n]`), DIGIT] },
  {
    names: ['afmoe'],
    patterns: [
      THREES,
      raw`[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+`,
      deepseek3(raw`[\r\n]*|\s*[\r\n]+`)
    ]
  },
  {
    names: ['youtu'],
    patterns: [
      raw`[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|${CJK}`,
      cased(DIGIT, `${CONTRACTIONS}?`)
    ],
    ignoreMerges: true
  },
  {
    names: ['falcon'],
    patterns: [PUNCTUATION.Contiguous, GPT2, '[0-9][0-9][0-9]']
  },
  { names: ['bloom', 'poro-chat', 'gpt3-finnish'], patterns: [bloom] },
  { names: ['viking'], patterns: [bloom, DIGIT] },
  {
    names: ['jais-2'],
    patterns: [
      modern(UP_TO_3).replace(
        raw`|\s+(?!\S)|\s+`,
        [512, 256, 128, 64, 32, 16, 8, 4, '1,2'].map((n) => raw`|\s{${n}}(?!\S)`).join('') + raw`|\s{1}`
      )
    ]
  },
  {
    names: ['chameleon'],
    patterns: [
      '<sentinel:[0-9]+>',
      '(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z',
      raw`([\t\n]|    |  )`,
      DIGIT,
      PUNCTUATION.Isolated,
      GPT2
    ],
    addBos: true
  },
  { names: ['tiny_aya', 'cohere2moe'], patterns: [THREES_TO_BOUNDARY, cased(UP_TO_3, `${CONTRACTIONS}?`)] },
  { names: ['superbpe'], patterns: [raw`\p{N}+`, THREES_EMPTY] },
  {
    names: ['bailingmoe', 'bailingmoe2', 'llada-moe'],
    patterns: [
      raw`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+`
    ]
  },
  {
    names: ['seed-coder'],
    patterns: [raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+${SPACES}`]
  },
  { names: ['ufakzeka'], patterns: [QWEN2.slice(CONTRACTIONS.length + 1)] },
  {
    names: ['kimi-k2'],
    patterns: [raw`[\p{Han}]+|${cased(UP_TO_3, `${CONTRACTIONS}?`, raw`&&[^\p{Han}]`, raw`\r\n`)}`]
  },
  { names: ['laguna'], patterns: [lines, QWEN2] },
  {
    names: ['exaone-moe'],
    patterns: [
      raw`${CONTRACTIONS}|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+`
    ]
  },
  { names: ['minicpm5'], patterns: [UP_TO_3, modern(raw`\p{N}+`)], ignoreMerges: true },
  { names: ['gemma4', 'granite-embed-multi-311m'], patterns: [lines], characters: true, addBos: true },
  { names: ['sarvam-moe'], patterns: [lines], characters: true }
]
