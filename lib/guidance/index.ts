/** Structured output: texts that a JSON schema accepts. */
export type { Guide, GuideState } from './guide.js'
export { compileGuide } from './guide.js'
export type { JsonSchema, ResponseFormat } from './response-format.js'
export { ownFormat, responseFormatAllowed, responseFormatSchema } from './response-format.js'
export type { TokenBytes } from './token-trie.js'
