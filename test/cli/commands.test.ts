import { type ChildProcess, spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { command, jsonLines, MAIN, notBuilt } from './command.js'

const EMBEDDED = 'models/tiny-shakespeare-moe-q8_0.gguf'
const skip =
  notBuilt || (existsSync('build/Release/tiered_moe.node') || process.env.TIERED_MOE_ADDON ? false : 'no addon')

t.test('run streams text, then one line of figures', { skip }, async (t) => {
  const args = ['run', '--prompt', 'ROMEO:', '--max-tokens', '120', '--ignore-eos', '--seed', '7']
  const { code, stdout, stderr } = await command(args)
  t.equal(code, 0)
  t.equal(stderr, '', 'no progress in a pipe')
  const lines = stdout.trimEnd().split('\n')
  t.match(lines.at(-1), /^\[load [\d.]+ m?s, first token [\d.]+ m?s, [\d.]+ tokens\/s, peak memory [\d.]+ MiB\]$/)
  t.ok(Buffer.byteLength(lines.slice(0, -1).join('\n')) > 200)
  const again = await command([...args, '--threads', '1', '--isa', 'scalar'])
  t.equal(again.stdout.split('\n[load')[0], stdout.split('\n[load')[0], 'same seed, same text, whatever computes it')
})

t.test('run --json', { skip }, async (t) => {
  const { stdout, code } = await command([
    'run',
    '--json',
    '-p',
    'JULIET:',
    '-n',
    '10',
    '--ignore-eos',
    '--temperature',
    '0'
  ])
  t.equal(code, 0)
  const lines = jsonLines(stdout)
  t.equal(lines.length, 11)
  t.match(lines[0], { text: String, token: Number })
  t.match(lines.at(-1), {
    finishReason: 'length',
    usage: { completionTokens: 10 },
    timing: { loadMs: Number, firstTokenMs: Number, tokensPerSecond: Number },
    peakMemoryBytes: Number
  })
})

t.test('run --json-schema', { skip }, async (t) => {
  const schema = JSON.stringify({ type: 'array', items: { enum: ['love', 'war'] }, minItems: 1, maxItems: 2 })
  const folder = t.testdir({ 'schema.json': schema, 'text.json': 'array' })
  const run = (name: string) =>
    command(['run', '-p', 'ROMEO:', '--temperature', '0', '--json', '--json-schema', join(folder, name)])
  const { code, stdout } = await run('schema.json')
  t.equal(code, 0)
  const text = jsonLines(stdout).map((line) => (line as { text: string }).text)
  t.ok((JSON.parse(text.join('')) as string[]).every((item) => ['love', 'war'].includes(item)))
  const refused = await run('text.json')
  t.equal(refused.code, 2)
  t.match(refused.stderr, /is not JSON/)
})

t.test('prompts from standard input', { skip }, async (t) => {
  const { code, stdout } = await command(['run', '-n', '5', '--ignore-eos', '--temperature', '0'], {
    input: 'JULIET:\n'
  })
  t.equal(code, 0)
  t.match(stdout, /tokens\/s/)
  const empty = await command(['run'])
  t.equal(empty.code, 2)
  t.match(empty.stderr, /the prompt is empty/)
  const two = await command(['run', '-i', '-n', '5', '--ignore-eos'], { input: 'ROMEO:\n\nJULIET:\n' })
  t.equal(two.code, 0)
  t.equal(two.stdout.match(/tokens\/s/g)?.length, 2, 'one answer per line that is not empty')
  const stop = await command(['run', '-p', 'ROMEO:', '-n', '200', '--stop', 'e', '--ignore-eos', '--json'])
  t.match(jsonLines(stop.stdout).at(-1), { finishReason: 'stop' })
})

t.test('a chat template makes a conversation', { skip }, async (t) => {
  const chatTemplate = '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}'
  const path = writeMoeModel(join(t.testdir(), 'chat.gguf'), { chatTemplate })
  const { code, stdout } = await command(['run', path, '-i', '--json', '-n', '3', '--ignore-eos'], { input: 'a\nb\n' })
  t.equal(code, 0)
  const prompts = jsonLines(stdout).flatMap(({ usage }) =>
    usage ? [(usage as { promptTokens: number }).promptTokens] : []
  )
  t.equal(prompts[0], 'user: a\n'.length - 1, 'one pair of letters is one token')
  t.ok(prompts[1]! > 2 * prompts[0]!, 'the history is part of the second prompt')
})

t.test('--latency-budget: everything is tried, then what takes less', { skip }, async (t) => {
  const tiers = join(t.testdir(), 'tiers.yaml')
  writeFileSync(tiers, 'tiers:\n  - {name: core, placement: hot, experts: [0-7]}\n  - {name: rest, placement: cold}\n')
  const args = ['run', '-i', '--json', '-n', '4', '--ignore-eos', '--tiers', tiers, '--latency-budget', '0.001']
  const { code, stdout } = await command(args, { input: 'ROMEO:\nJULIET:\n' })
  t.equal(code, 0)
  const used = jsonLines(stdout).flatMap(({ tierSet }) => (tierSet ? [tierSet as string[]] : []))
  t.same(used[0], ['core', 'rest'])
  t.equal(used[1]!.length, 1)
})

t.test('failures of files', { skip }, async (t) => {
  const dir = t.testdir({ 'text.gguf': 'not a model', 'cut.gguf': readFileSync(EMBEDDED).subarray(0, 100_000) })
  for (const [args, exit, name] of [
    [['run', join(dir, 'absent.gguf'), '-p', 'x'], 1, 'MODEL_NOT_FOUND'],
    [['inspect', join(dir, 'text.gguf')], 1, 'MODEL_FILE_INVALID'],
    [['run', join(dir, 'cut.gguf'), '-p', 'x'], 1, 'MODEL_FILE_INVALID'],
    [['bench', dir], 1, 'MODEL_FILE_INVALID'],
    [['run', '-p', 'x', '--context-length', '100000'], 2, 'VALIDATION_ERROR'],
    [['run', '-p', 'word '.repeat(400)], 1, 'CONTEXT_LENGTH_EXCEEDED'],
    [['quantize', EMBEDDED, EMBEDDED], 2, 'VALIDATION_ERROR'],
    [['quantize', EMBEDDED, join(dir, 'no/such/folder.gguf')], 1, 'FILE_WRITE_FAILED']
  ] as const) {
    const { code, stderr } = await command([...args])
    t.equal(code, exit, `${args[0]}: ${name}`)
    t.match(stderr, new RegExp(`^error: .+\\n  code: ${name}\\n  what to do: .+\\n$`))
  }
})

t.test('inspect', { skip }, async (t) => {
  const text = await command(['inspect'])
  t.equal(text.code, 0)
  t.match(text.stdout, /architecture +olmoe\n/)
  t.match(text.stdout, /experts +16 per layer, 4 used; 128 wide, /)
  t.match(text.stdout, /\nmetadata\n/)
  const json = JSON.parse((await command(['inspect', 'tiny-shakespeare', '--json'])).stdout)
  t.match(json, { version: 3, model: { layers: 4, experts: 16, parts: { experts: { types: ['Q8_0'] } } } })
  t.equal(json.metadata['tokenizer.ggml.tokens'].length, 1024)
  t.equal(json.tensors.length > 50, true)

  const path = join(t.testdir(), 'mamba.gguf')
  writeMoeModel(path, { metadata: { 'general.architecture': 'mamba', 'general.name': 'evil\x1b[2J' } })
  const other = await command(['inspect', path])
  t.equal(other.code, 1)
  t.match(other.stderr, /code: ARCHITECTURE_UNSUPPORTED/)
  t.match(other.stdout, /general\.name +evil\\u001b\[2J/, 'metadata cannot drive the terminal')
})

t.test('quantize, then run', { skip }, async (t) => {
  const dir = t.testdir()
  const from = writeMoeModel(join(dir, 'f32.gguf'))
  for (const type of ['Q8_0', 'q4_0']) {
    const to = join(dir, `${type}.gguf`)
    const { code, stdout, stderr } = await command(['quantize', from, to, '--type', type])
    t.equal(code, 0, stderr)
    t.match(stdout, new RegExp(`${type.toUpperCase()}`))
    const run = await command(['run', to, '-p', 'then', '-n', '8', '--ignore-eos', '--json'])
    t.equal(run.code, 0, run.stderr)
    t.equal(jsonLines(run.stdout).length, 9)
  }
})

t.test('bench and doctor', { skip }, async (t) => {
  const args = ['bench', '--prefill', '40', '--decode', '4', '--repeat', '2']
  t.match((await command(args)).stdout, /prefill 40 .*tokens\/s/)
  const bench = JSON.parse((await command([...args, '--json'])).stdout)
  t.match(bench, { model: 'tiny-shakespeare', repeat: 2, prefill: { tokens: 40, median: Number } })
  t.ok(bench.decode.median > 0)
  t.equal((await command(['bench', '--decode', '256'])).code, 2)
  const doctor = JSON.parse((await command(['doctor', '--json'])).stdout)
  t.match(doctor, {
    addon: { loaded: true },
    cpu: { isas: Array, isa: String, features: Object },
    memory: { availableBytes: Number },
    adapters: [
      { name: 'cpu', available: true },
      { name: 'webgpu', available: Boolean, note: String },
      { name: 'cuda', available: false }
    ]
  })
  t.match((await command(['doctor'])).stdout, /instructions +scalar/)
})

/** Says so on standard error once the command reads its standard input. */
const tellWhenReady = `--import=data:text/javascript,${encodeURIComponent(
  "process.stdin.on('newListener', (name) => name === 'readable' && setTimeout(() => process.stderr.write('ready'), 0))"
)}`

t.test('ended early', { skip }, async (t) => {
  const long = ['run', '-i', '-n', '240', '--ignore-eos']
  const input = 'ROMEO:\n'.repeat(200)
  for (const [signal, exit] of [
    ['SIGINT', 130],
    ['SIGTERM', 143]
  ] as const) {
    let sent = false
    const { code, stderr } = await command(long, {
      input,
      onOutput: (child) => {
        if (!sent) sent = child.kill(signal)
      }
    })
    t.equal(code, exit, signal)
    t.equal(stderr, 'interrupted\n')
  }
  const onReady = (child: ChildProcess) => child.kill('SIGINT')
  const reading = await command(['run'], { input: undefined, env: { NODE_OPTIONS: tellWhenReady }, onReady })
  t.equal(reading.code, 130, 'while it waits for a prompt that does not come')
  const closed = await command(long, { input, onOutput: (child) => child.stdout?.destroy() })
  t.equal(closed.code, 0, 'a reader that has gone')
  t.equal(closed.stderr, '')
})

t.test('all three architectures', { skip }, async (t) => {
  const dir = t.testdir()
  const ids = (stdout: string) => jsonLines(stdout).flatMap(({ token }) => (token === undefined ? [] : [token]))
  for (const architecture of ['olmoe', 'qwen3moe', 'llama'] as const) {
    const path = writeMoeModel(join(dir, `${architecture}.gguf`), { architecture, tied: architecture === 'qwen3moe' })
    const { code, stdout, stderr } = await command(['run', path, '-p', 'then', '-n', '6', '--ignore-eos', '--json'])
    t.equal(code, 0, stderr)
    t.equal(ids(stdout).length, 6)
  }
  writeFileSync(join(dir, 'x.gguf'), '')
  t.equal((await command(['run', join(dir, 'x.gguf'), '-p', 'x'])).code, 1)
})

t.test(
  'standard output on a full disk',
  { skip: skip || (existsSync('/dev/full') ? false : 'no /dev/full') },
  async (t) => {
    const run = ['run', '-p', 'ROMEO:', '-n', '3', '--json']
    const { status, stderr } = spawnSync('sh', ['-c', 'exec "$@" > /dev/full', 'sh', process.execPath, MAIN, ...run], {
      encoding: 'utf8'
    })
    t.equal(status, 1)
    t.match(JSON.parse(stderr), { code: 'FILE_WRITE_FAILED', details: { errno: 'ENOSPC', path: 'standard output' } })
  }
)
