/** Bodies in which everything is wrong: limits.test.ts bounds what this process may take. */
import { isEngineError } from '../../lib/errors/index.js'
import { parseRequest } from '../../lib/server/openai-request.js'

const bodyBytes = 4 * 2 ** 20

/** The path of the fault that is told. */
function fault(body: string): unknown {
  try {
    parseRequest('chat', JSON.parse(body))
  } catch (error) {
    if (isEngineError(error)) return error.details.path
    throw error
  }
  throw new Error('it was taken')
}

const messages = (item: string): string => {
  const count = Math.floor((bodyBytes - 100) / (item.length + 1))
  return `{"model":"m","messages":[${Array(count).fill(item).join()}]}`
}
const items = ['{}', '{"role":"","content":""}', '{"role":"user","content":"","x":1}', '{"role":"user","content":[1]}']
const names = Array.from({ length: 340_000 }, (_, i) => `"x${i}":1`)
const bodies = [...items.map(messages), `{"model":"m","messages":[{"role":"user","content":""}],${names.join()}}`]
console.log(JSON.stringify(bodies.map(fault)))
