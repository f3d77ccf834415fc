/** A folder in the form of Hugging Face: config.json, safetensors files, tokenizer.json. What belongs to it, and whether a path is one. */
import { readdirSync, type Stats, statSync } from 'node:fs'
import { join } from 'node:path'
import { CONFIG_FILE } from './config.js'
import { INDEX_FILE } from './shards.js'

export const TOKENIZER_FILE = 'tokenizer.json'
export const TOKENIZER_CONFIG_FILE = 'tokenizer_config.json'
export const GENERATION_CONFIG_FILE = 'generation_config.json'
export const TEMPLATE_FILE = 'chat_template.jinja'

const files = new Set([
  CONFIG_FILE,
  INDEX_FILE,
  TOKENIZER_FILE,
  TOKENIZER_CONFIG_FILE,
  GENERATION_CONFIG_FILE,
  TEMPLATE_FILE
])

const statOf = (path: string): Stats | undefined => {
  try {
    return statSync(path, { throwIfNoEntry: false })
  } catch {
    return undefined
  }
}

/** Links are followed: in the cache of the Hub every file is one. */
export function isModelFolder(path: string): boolean {
  return statOf(path)?.isDirectory() === true && statOf(join(path, CONFIG_FILE)) !== undefined
}

/** Every file of a folder that its model is made of, in one order. Throws what the file system throws. */
export function modelFiles(folder: string): string[] {
  const names = readdirSync(folder).filter((name) => files.has(name) || name.endsWith('.safetensors'))
  const paths = names.sort().map((name) => join(folder, name))
  return paths.filter((path) => statOf(path)?.isFile())
}
