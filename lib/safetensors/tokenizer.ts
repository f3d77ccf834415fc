/** What a folder says of its tokens, as metadata: its files as lib/model reads them, and the size of the vocabulary. */
import { join } from 'node:path'
import { createError } from '../errors/index.js'
import type { Metadata } from '../model/metadata.js'
import { tokenizerMetadata } from '../model/tokenizer-files.js'
import { CONFIG_FILE } from './config.js'
import type { MetadataValue } from './gguf-header.js'
import { GENERATION_CONFIG_FILE, TEMPLATE_FILE, TOKENIZER_CONFIG_FILE, TOKENIZER_FILE } from './model-folder.js'
import { invalid, readSmallFile } from './read-json.js'
import { ifAny } from './shards.js'

/** The largest published tokenizer.json files have about 35 MB, tokenizer_config.json files 1.2 MB. */
const largestTokenizer = 64 * 2 ** 20
const largestOther = 8 * 2 ** 20

/** The text of a file in UTF-8; undefined where there is none. */
async function textOf(folder: string, name: string, most = largestOther): Promise<string | undefined> {
  const path = join(folder, name)
  const bytes = await ifAny(readSmallFile(path, most))
  if (!bytes) return undefined
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw invalid(path, 'it is not UTF-8', {}, cause)
  }
}

/** In a type of GGUF. METADATA_INVALID for an id beyond all vocabularies. */
function typed(key: string, value: unknown): MetadataValue {
  if (typeof value === 'string') return { type: 'string', value }
  if (typeof value === 'boolean') return { type: 'bool', value }
  if (typeof value === 'number' && value < 2 ** 32) return { type: 'u32', value }
  const found = String(value).slice(0, 60)
  throw createError('METADATA_INVALID', `metadata ${key}: found ${found}, allowed is an id of a token`, {
    key,
    found,
    allowed: 'an id of a token'
  })
}

/**
 * `vocabKey`: where the size of the vocabulary goes. Without a tokenizer.json that is all. MODEL_FILE_INVALID {path}, METADATA_INVALID {key},
 * FILE_READ_FAILED.
 */
export async function tokenizerEntries(
  folder: string,
  config: Metadata,
  vocabKey: string
): Promise<Map<string, MetadataValue>> {
  const entries = new Map<string, MetadataValue>([[vocabKey, { type: 'u32', value: config.integer('.vocab_size') }]])
  const tokenizer = await textOf(folder, TOKENIZER_FILE, largestTokenizer)
  if (tokenizer === undefined) return entries
  const [own, generation, model, chatTemplate] = await Promise.all(
    [TOKENIZER_CONFIG_FILE, GENERATION_CONFIG_FILE, CONFIG_FILE, TEMPLATE_FILE].map((name) => textOf(folder, name))
  )
  const given = Object.entries({ config: own, generation, model, chatTemplate }).filter(
    ([, text]) => text !== undefined
  )
  const metadata = tokenizerMetadata({ tokenizer, ...Object.fromEntries(given) })
  for (const [key, value] of Object.entries(metadata)) entries.set(key, typed(key, value))
  return entries
}
