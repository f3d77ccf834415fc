/** What of an error's details may be logged: what users wrote, and what was generated for them, stays out. */

/** Of a prompt in a log, where prompts are logged at all. */
export const loggedPromptCharacters = 100

/** Details that hold text or tokens of users or of models. */
const contents: ReadonlySet<string> = new Set([
  'prompt',
  'promptTokens',
  'messages',
  'text',
  'tokens',
  'logits',
  'found',
  'stop'
])

/** A prompt as a log may show it. */
export const shortened = (prompt: string): string =>
  prompt.length > loggedPromptCharacters ? `${prompt.slice(0, loggedPromptCharacters - 1)}…` : prompt

/** A copy of an error's details for a log, one level deep; of lists and buffers only the length. */
export function loggedDetails(details: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const logged: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(details)) {
    if (!contents.has(key)) logged[key] = ArrayBuffer.isView(value) ? { bytes: value.byteLength } : value
    else if (typeof value === 'string' || Array.isArray(value)) logged[key] = { length: value.length }
  }
  return logged
}

/** An error's message for a log: the text of a bad argument, which may be a prompt, is taken out. */
export function loggedMessage(message: string, { found }: Readonly<Record<string, unknown>>): string {
  return typeof found === 'string' && found.startsWith('"') ? message.replace(found, () => 'a text') : message
}
