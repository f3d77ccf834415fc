// Notes which codes of the catalogue are raised while the tests run, and which errors lack a detail that their code promises. test-loader.mjs brings
// it into every process of a test, and through NODE_OPTIONS into those that a test starts; check-raised.mjs reads what is noted.
import { subscribe } from 'node:diagnostics_channel'
import { appendFileSync, mkdirSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const folder = process.env.TIERED_MOE_RAISED ?? join(root, 'node_modules', '.cache', 'raised')
const noted = new Set()
const lines = []

/** Files of an error's stack, from where it was made outwards, relative to the repository. */
function filesOf({ stack }) {
  const lines = String(stack).matchAll(/^ +at .*?(?:file:\/\/)?(\/[^\n]*?)(:\d+):\d+\)?$/gm)
  return [...lines].map(([, path, line]) => {
    // Maps of sources that `npm run typecheck` left name a file from the repository on.
    const isMapped = /^\/(lib|test)\//.test(path)
    return (isMapped ? path.slice(1) : relative(root, decodeURI(path))) + line
  })
}

/** Errors made anew of others, which were looked at where they came up: with the text until then, after attempts, from another process. */
const madeAnew = /^ +at (?:\S+\.)?(?:#withPartial|exhausted|unpackError) /m

/** Where the library made an error; undefined for one that a test made, or that is made anew. */
function placeOf(error) {
  if (madeAnew.test(error.stack)) return undefined
  const files = filesOf(error)
  // What makes errors is no place, but for the one of what came in a form that nobody knows.
  if (/ unknownError /.test(error.stack)) return 'lib/errors/from-wire.ts'
  const own = /^(lib|dist\/(esm|cjs))\/errors\//
  const native = files.some((file) => own.test(file) && file.includes('/native-error.'))
  const caller = files.find((file) => !own.test(file) && /^(lib|dist|test|bench|examples)\//.test(file))
  if (caller && /^(lib|dist)\//.test(caller)) return caller
  // The addon made it: called by a test, or by nobody who is still there.
  return native && !caller?.startsWith('test/errors/')
    ? `the addon, for ${caller ?? 'what it did by itself'}`
    : undefined
}

/** Required details that an error does not have. */
function lackingIn({ details, entry }) {
  return (entry.details ?? []).filter((names) => names.split('|').every((name) => details[name] === undefined))
}

function note(code, error) {
  const lacks = lackingIn(error)
  // The stack is looked at once for each, as it costs more than the error.
  const key = [code, ...lacks].join(' ')
  if (noted.has(key)) return
  const place = placeOf(error)
  if (place === undefined) return
  noted.add(key)
  lines.push(`${JSON.stringify({ code, place, lacks })}\n`)
  write()
}

/** What a process that has no descriptor left cannot write comes with the next line, or at its end. */
function write() {
  if (lines.length === 0) return
  try {
    mkdirSync(folder, { recursive: true })
    appendFileSync(join(folder, String(process.pid)), lines.join(''))
    lines.length = 0
  } catch {}
}

process.on('exit', write)
subscribe('tiered-moe:error', ({ code, error }) => note(code, error))
