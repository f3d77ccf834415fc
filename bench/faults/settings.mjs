// Settings: what is wrong is found before anything starts, with its place, what was found and what is allowed.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadRuntimeConfig } from '../../dist/esm/index.js'
import { runArguments } from './serving.mjs'

const descriptive = ['S008 configuration: descriptive message', 'pattern 5']

/** A row of a configuration: the library refuses to read it, the command line ends with 2, and the mended one is sound. */
const configuration = (row, bad, good, details = {}) => ({
  at: ['library', 'cli'],
  recovery: 'nothing was started; with the setting mended the same file is sound',
  ...row,
  async run(t) {
    const path = join(t.folder, 'tiered-moe.yaml')
    const { text = bad, env = {} } = typeof bad === 'string' ? {} : bad
    writeFileSync(path, text)
    await t.caught(loadRuntimeConfig({ path, env }), details)
    await t.cli(['config', 'check', path], { env })
    writeFileSync(path, good)
    t.check('mended, it is sound', (await loadRuntimeConfig({ path, env })) !== undefined)
  }
})

export default {
  name: 'settings',
  title: 'Settings',
  rows: [
    configuration(
      {
        id: 'wrong-value',
        covers: descriptive,
        inject: 'a setting has a value that is not allowed',
        code: 'CONFIG_INVALID'
      },
      'engine:\n  threads: many\n',
      'engine:\n  threads: 2\n',
      { path: 'engine.threads', line: 2 }
    ),
    configuration(
      {
        id: 'unknown-setting',
        full: true,
        covers: descriptive,
        inject: 'a setting that does not exist',
        code: 'CONFIG_INVALID'
      },
      'engine:\n  thread: 2\n',
      'engine:\n  threads: 2\n',
      { path: 'engine.thread' }
    ),
    configuration(
      {
        id: 'contradiction',
        full: true,
        covers: ['pattern 7', ...descriptive],
        inject: 'deadlines that do not nest',
        code: 'CONFIG_INVALID'
      },
      'timeouts: { request_ms: 100, inference_ms: 200 }\n',
      'timeouts: { request_ms: 200, inference_ms: 100 }\n'
    ),
    configuration(
      { id: 'broken-file', covers: descriptive, inject: 'a file that is no YAML', code: 'CONFIG_PARSE_FAILED' },
      'engine: {threads: 2\n',
      'engine: {threads: 2}\n'
    ),
    configuration(
      {
        id: 'unknown-environment',
        covers: descriptive,
        inject: 'TIERED_MOE_ENV names an environment that is not there',
        code: 'CONFIG_UNKNOWN_ENVIRONMENT'
      },
      { text: 'environments: { production: {} }\n', env: { TIERED_MOE_ENV: 'staging' } },
      'environments: { production: {}, staging: {} }\n'
    ),
    {
      id: 'absent-file',
      covers: ['S008 configuration: missing', 'pattern 5'],
      inject: 'the configuration that is named does not exist',
      code: 'CONFIG_NOT_FOUND',
      at: ['library', 'cli'],
      recovery: 'nothing was started',
      async run(t) {
        const path = join(t.folder, 'none.yaml')
        await t.caught(loadRuntimeConfig({ path, env: {} }))
        const { stdout } = await t.cli(['run', ...runArguments, '--config', path])
        t.check('nothing was computed', stdout === '')
      }
    },
    {
      id: 'usage',
      covers: ['pattern 5', 'pattern 6'],
      inject: 'a command line with an option out of range',
      code: 'VALIDATION_ERROR',
      at: ['cli'],
      recovery: 'what is allowed is said, and nothing was started',
      async run(t) {
        const { stdout, error } = await t.cli(['run', ...runArguments, '--temperature', '-3'])
        t.check('it says so', stdout === '' && /temperature/.test(error?.message))
      }
    }
  ]
}
