// One fault while it is injected: what was observed, held against what the row and the catalogue say.

import { catalog, httpClasses, isEngineError } from '../../dist/esm/errors/index.js'
import { command } from '../../test/cli/command.ts'

/** Thrown where a fault cannot be injected on this machine: the row is reported as skipped. */
export class CannotInject extends Error {}

/** The wire form of an error that a command printed with --json: the last line of standard error that is one. */
function printedError(stderr) {
  for (const line of stderr.trim().split('\n').reverse()) {
    try {
      const value = JSON.parse(line)
      if (typeof value?.code === 'string') return value
    } catch {
      // A line for people.
    }
  }
  return undefined
}

export class Observation {
  #row
  /** Where the code was seen: library, cli, http. */
  seen = {}
  /** What was checked of the recovery. */
  checks = 0
  problems = []
  /** A folder of this row's own, gone after the group. */
  folder

  constructor(row, folder) {
    this.#row = row
    this.folder = folder
  }

  #expected(where, code) {
    if (code !== this.#row.code) this.problems.push(`${where}: ${code}, not ${this.#row.code}`)
    this.seen[where] ??= code
    return catalog[code]
  }

  /** A property that has to hold; most of them say what became of the rest. */
  check(what, holds) {
    this.checks++
    if (!holds) this.problems.push(`does not hold: ${what}`)
  }

  /** An error that the library gave, or its wire form from another process. */
  saw(error, details = {}) {
    if (!error?.code)
      return void this.problems.push(`library: no typed error, but ${error?.stack ?? JSON.stringify(error)}`)
    const entry = this.#expected('library', error.code)
    const wire = isEngineError(error) ? error.toJSON() : error
    for (const [key, of] of Object.entries(wireColumns)) {
      if (entry && wire[key] !== of(entry)) this.problems.push(`library: ${key} is ${wire[key]}, not ${of(entry)}`)
    }
    this.#advice('library', wire, entry)
    for (const [name, value] of Object.entries(details)) {
      const found = wire.details?.[name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)]
      if (JSON.stringify(found) !== JSON.stringify(value))
        this.problems.push(`details.${name} is ${JSON.stringify(found)}, not ${JSON.stringify(value)}`)
    }
  }

  /** The code of an error that another process told by its code alone. */
  sawCode(code) {
    this.#expected('library', code)
  }

  /** Every error says what to do; a lack says what there is, and a "later" when. */
  #advice(where, wire, entry) {
    const { suggested_action: action, resource_info: info, retry_after_seconds: after } = wire.details ?? {}
    if (!action) this.problems.push(`${where}: no suggested action`)
    if (entry?.retry === 'after' && !(after > 0)) this.problems.push(`${where}: no retry_after_seconds`)
    if (/^RESOURCE_(MEMORY|BUDGET|DISK|FILES)/.test(wire.code) && typeof info?.unit !== 'string')
      this.problems.push(`${where}: no resource_info`)
  }

  /** Awaits a failure of the library, and gives it. */
  async caught(promise, details) {
    const error = await Promise.resolve(promise).then(
      (value) => ({ stack: `no error, but ${String(JSON.stringify(value)).slice(0, 100)}` }),
      (error) => error
    )
    this.saw(error, details)
    return error
  }

  /** Runs the command line; the row's code ends it, with the exit code of the catalogue (a row without a code: 0). */
  async cli(args, options = {}) {
    const outcome = await command([...args, '--json'], options)
    return { ...outcome, error: this.sawCommand(outcome.code ?? outcome.signal, outcome.stderr) }
  }

  /** How a command ended, and the error that it printed. */
  sawCommand(exit, stderr) {
    const { code } = this.#row
    const printed = printedError(stderr)
    if (code !== undefined) {
      if (printed) this.#advice('cli', printed, this.#expected('cli', printed.code))
      else this.problems.push(`cli: no error on standard error: ${stderr.slice(-600)}`)
    }
    const wanted = this.#row.exit ?? (code === undefined ? 0 : catalog[code].exitCode)
    if (exit !== wanted) this.problems.push(`exit: ${exit}, not ${wanted}: ${stderr.slice(-300)}`)
    this.exit ??= exit
    return printed
  }

  /** Runs the command line where it has to succeed: before the fault, or after it. */
  async fine(args, options = {}) {
    const outcome = await command([...args, '--json'], options)
    if (outcome.code !== 0) this.problems.push(`${args[0]} ended with ${outcome.code}: ${outcome.stderr.slice(-300)}`)
    return outcome
  }

  /** An answer of the server, {status, headers, body}: the row's code with its status, class and retry headers. */
  sawHttp({ status, headers, body }) {
    const { code } = this.#row
    const error = body?.error
    const wanted = code === undefined ? 200 : catalog[code].httpStatus
    if (status !== wanted) this.problems.push(`http: ${status}, not ${wanted}: ${JSON.stringify(body).slice(0, 300)}`)
    this.http ??= status
    if (code === undefined) return
    if (!error) return void this.problems.push(`http: no error in ${JSON.stringify(body).slice(0, 300)}`)
    const entry = this.#expected('http', error.code)
    this.#advice('http', error, entry)
    if (error.type !== httpClasses[status]) this.problems.push(`http: class ${error.type}, not ${httpClasses[status]}`)
    if ([429, 503].includes(status) && !(Number(headers['retry-after']) > 0)) this.problems.push('http: no retry-after')
  }

  /** Where the row says that the code is to be seen, and where it was not. */
  finish() {
    for (const where of this.#row.at) {
      const found =
        where === 'cli' ? this.exit !== undefined : where === 'http' ? this.http !== undefined : this.seen.library
      if (!found) this.problems.push(`not seen at ${where}`)
    }
    if (this.checks === 0) this.problems.push('nothing was checked of the recovery')
  }
}

const wireColumns = {
  category: (entry) => entry.category,
  severity: (entry) => entry.severity,
  engine_code: (entry) => entry.engineCode
}
