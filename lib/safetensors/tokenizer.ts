/** What a folder says of its tokens, as metadata: tokenizer.json under the key of the GGUF specification, ids of special tokens, the chat template. */
import { join } from 'node:path'
import type { Metadata } from '../model/metadata.js'
import { integers, parseConfig, readConfig } from './config.js'
import type { MetadataValue } from './gguf-header.js'
import { GENERATION_CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE } from './model-folder.js'
import { invalid, isObject, parseObject, readSmallFile } from './read-json.js'
import { ifAny } from './shards.js'

/** The largest published tokenizer.json files have about 35 MB, tokenizer_config.json files 1.2 MB. */
const largestTokenizer = 64 * 2 ** 20
const largestTokenizerConfig = 8 * 2 ** 20
const largestTemplate = 2 ** 20

/** `tokenizer.ggml.<name>_token_id` of the tokens that end a text, the first three of them. */
const endNames = ['eos', 'eot', 'eom'] as const

/** The text of a file in UTF-8; undefined where there is none. */
async function textOf(folder: string, name: string, most: number): Promise<string | undefined> {
  const path = join(folder, name)
  const bytes = await ifAny(readSmallFile(path, most))
  if (!bytes) return undefined
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw invalid(path, 'it is not UTF-8', {}, cause)
  }
}

interface TokenizerConfig {
  config: Metadata
  /** One, or several with names, of which `default` counts. */
  template: string | undefined
}

async function readTokenizerConfig(folder: string): Promise<TokenizerConfig | undefined> {
  const path = join(folder, TOKENIZER_CONFIG_FILE)
  const bytes = await ifAny(readSmallFile(path, largestTokenizerConfig))
  if (!bytes) return undefined
  const { chat_template: given } = parseObject(bytes, path, TOKENIZER_CONFIG_FILE)
  const named = Array.isArray(given) ? given.find((one) => isObject(one) && one.name === 'default') : undefined
  const template: unknown = named === undefined ? given : (named as { template?: unknown }).template
  return {
    config: parseConfig(bytes, path, TOKENIZER_CONFIG_FILE),
    template: typeof template === 'string' ? template : undefined
  }
}

/** Ids of the special tokens: what generating goes by, before what the model was configured with. */
function putIds(configs: readonly Metadata[], vocab: number, put: (key: string, value: MetadataValue) => void): void {
  const range = { min: 0, max: vocab - 1 }
  const first = (key: string) => configs.find((config) => config.has(key))
  const bos = first('.bos_token_id')?.integer('.bos_token_id', range)
  if (bos !== undefined) put('bos_token_id', { type: 'u32', value: bos })
  const ends = first('.eos_token_id')
  for (const [i, value] of (ends ? integers(ends, '.eos_token_id', range) : []).entries()) {
    const name = endNames[i]
    if (name) put(`${name}_token_id`, { type: 'u32', value })
  }
}

/** `vocabKey`: where the size of the vocabulary goes. MODEL_FILE_INVALID {path}, METADATA_INVALID {key}, FILE_READ_FAILED. */
export async function tokenizerMetadata(
  folder: string,
  config: Metadata,
  vocabKey: string
): Promise<Map<string, MetadataValue>> {
  const vocab = config.integer('.vocab_size')
  const entries = new Map<string, MetadataValue>([[vocabKey, { type: 'u32', value: vocab }]])
  const json = await textOf(folder, TOKENIZER_FILE, largestTokenizer)
  if (json === undefined) return entries
  entries.set('tokenizer.huggingface.json', { type: 'string', value: json })
  const put = (key: string, value: MetadataValue) => entries.set(`tokenizer.ggml.${key}`, value)
  const generation = await ifAny(readConfig(folder, GENERATION_CONFIG_FILE))
  putIds(generation ? [generation, config] : [config], vocab, put)
  const own = await readTokenizerConfig(folder)
  for (const key of ['add_bos_token', 'add_eos_token'] as const) {
    if (own?.config.has(`.${key}`)) put(key, { type: 'bool', value: own.config.boolean(`.${key}`, false) })
  }
  const template = (await textOf(folder, TEMPLATE_FILE, largestTemplate)) ?? own?.template
  if (template !== undefined) entries.set('tokenizer.chat_template', { type: 'string', value: template })
  return entries
}
