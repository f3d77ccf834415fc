/** What a request may say of the form of its text. */
import { z } from 'zod'
import { isEngineError } from '../errors/index.js'
import { validationError } from '../validation.js'
import { isSchema } from './schema-keywords.js'
import { checkSize } from './schema-size.js'

/** A JSON schema, of the keywords that docs/structured-output.md lists. */
export type JsonSchema = Readonly<Record<string, unknown>>

export type ResponseFormat =
  | { type: 'text' }
  /** One JSON object, with whatever members. */
  | { type: 'json_object' }
  /** JSON that a schema accepts. `strict` is taken for the sake of OpenAI's requests: the schema always holds. */
  | { type: 'json_schema'; schema: JsonSchema; strict?: boolean | undefined }

export const responseFormatAllowed =
  '{type: "text"}, {type: "json_object"} or {type: "json_schema", schema: an object, strict?: true or false}'

export const responseFormatSchema = z.discriminatedUnion('type', [
  z.strictObject({ type: z.literal('text') }),
  z.strictObject({ type: z.literal('json_object') }),
  z.strictObject({
    type: z.literal('json_schema'),
    schema: z.custom<JsonSchema>(isSchema),
    strict: z.boolean().optional()
  })
])

/** An own copy, as JSON: a schema that a caller changes later, or that cannot be stored, is none. VALIDATION_ERROR, GUIDANCE_SCHEMA_UNSUPPORTED. */
export function ownFormat(subject: string, format: ResponseFormat): ResponseFormat {
  if (format.type !== 'json_schema') return format
  let schema: unknown
  try {
    checkSize(format.schema)
    schema = JSON.parse(JSON.stringify(format.schema))
  } catch (cause) {
    if (isEngineError(cause)) throw cause
    throw validationError(
      subject,
      'responseFormat.schema',
      format.schema,
      'an object that can be written as JSON',
      cause
    )
  }
  if (!isSchema(schema)) throw validationError(subject, 'responseFormat.schema', schema, 'an object')
  return { ...format, schema }
}
