/** Begins the schema of the standard input, and writes its text: memory.ts bounds what this process may take. */
import { readFileSync } from 'node:fs'
import { isEngineError } from '../../lib/errors/index.js'
import { begin } from './vocabularies.js'

const { schema, text } = JSON.parse(readFileSync(0, 'utf8'))
try {
  const state = begin(schema)
  for (const byte of Buffer.from(text)) if (!state.accept(byte)) throw new Error(state.describe())
  console.log(state.mask() ? 'followed' : 'no token')
} catch (error) {
  if (!isEngineError(error)) throw error
  console.log(error.details.reason)
}
