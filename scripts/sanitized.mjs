// Runs tests with an addon that was built with AddressSanitizer and UndefinedBehaviorSanitizer. Leaks are looked for too, at the end of each test
// process; V8's own, which it never frees when a process is told to exit, are left out.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..')
const out = join(root, 'build-asan')
const reports = join(out, 'reports')

/** Node is not built with the sanitizers, so their library has to be loaded before it. */
function runtime(name) {
  // CXX may name a wrapper too: `ccache g++`.
  const [compiler, ...before] = (process.env.CXX ?? 'g++').split(' ')
  const path = spawnSync(compiler, [...before, `-print-file-name=${name}`], { encoding: 'utf8' }).stdout?.trim()
  if (path && path !== name) return path
  console.error(`${name} was not found; it comes with the compiler (Debian: package libasan8, which g++ depends on)`)
  return process.exit(1)
}

/** The tests as plain JavaScript: a test runner between would be looked at by the leak checker as well. */
function transpile(folder) {
  const ts = createRequire(import.meta.url)('typescript')
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) transpile(path)
    if (!entry.name.endsWith('.ts')) continue
    const options = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 }
    const { outputText } = ts.transpileModule(readFileSync(join(root, path), 'utf8'), { compilerOptions: options })
    mkdirSync(join(out, folder), { recursive: true })
    writeFileSync(join(out, path.replace(/\.ts$/, '.js')), outputText)
  }
}

/** Blocks of a report that are not a leak of Node's own: leaks whose memory the addon itself asked for, and everything else. */
function ours(report) {
  const [head, ...leaks] = report.split(/\n(?=(?:Direct|Indirect) leak of )/)
  if (!/LeakSanitizer: detected memory leaks/.test(head)) return [report]
  // The first frame that is not the allocator's or a container's.
  const owner = (leak) =>
    leak.split('\n').find((line) => /^\s+#\d+ /.test(line) && !/libsanitizer|\/c\+\+\/|std::/.test(line))
  return leaks.filter((leak) => /tiered_moe(_cuda)?\.node|\/csrc\//.test(owner(leak) ?? ''))
}

/** Whether the leak checker itself fell at the end of a process, which happens now and then; its report is gone then. */
function checkerFell(pid) {
  const path = join(reports, `address.${pid}`)
  const report = existsSync(path) ? readFileSync(path, 'utf8') : ''
  if (!/LeakSanitizer has encountered a fatal error/.test(report) || /ERROR: AddressSanitizer/.test(report))
    return false
  rmSync(path)
  return true
}

/** Runs a program to its end. `{ output, ended, pid }`: all that it wrote, and 0 or how it failed. */
function finished(program, args, env) {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })
    const chunks = []
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => chunks.push(chunk))
    child.on('error', (cause) => resolve({ output: '', ended: cause.message, pid: undefined }))
    child.on('close', (status, signal) => {
      const ended = status === 0 ? 0 : (signal ?? `exit code ${status}`)
      resolve({ output: Buffer.concat(chunks).toString(), ended, pid: child.pid })
    })
  })
}

/**
 * Runs each of `jobs`, `{ file, variables }`, in a process of its own, as many at a time as there are cores. A file is a test, or a script with its
 * arguments; the longest should come first. The failures in words; none: an empty list.
 */
export async function runSanitized(jobs, args = []) {
  transpile('test')
  // Some tests look behind the public surface.
  transpile('lib')
  rmSync(reports, { recursive: true, force: true })
  mkdirSync(reports)
  const env = {
    ...process.env,
    LD_PRELOAD: `${runtime('libasan.so')} ${runtime('libstdc++.so.6')}`,
    TIERED_MOE_SANITIZED: '1',
    TAP_TIMEOUT: '3600',
    // Flows of the emulation of CUDA change stacks.
    ASAN_OPTIONS: `detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1:exitcode=99:log_path=${join(reports, 'address')}`,
    UBSAN_OPTIONS: `print_stacktrace=1:halt_on_error=1:exitcode=99:log_path=${join(reports, 'undefined')}`,
    // Whether a leak counts is decided below.
    LSAN_OPTIONS: 'exitcode=0'
  }
  const failed = []
  const left = [...jobs]
  const worker = async () => {
    for (let job = left.shift(); job; job = left.shift()) {
      const [path, ...own] = job.file.split(' ')
      console.log(`# ${job.file}`)
      const compiled = path.endsWith('.ts') ? join(out, path.replace(/\.ts$/, '.js')) : path
      const run = () => finished(process.execPath, [compiled, ...own, ...args], { ...env, ...job.variables })
      let result = await run()
      // Once more, so that its leaks are looked for; a second time it counts.
      if (checkerFell(result.pid)) result = await run()
      const { output, ended } = result
      console.log(`# ${job.file}: ${ended === 0 ? 'passed' : ended}\n${output.trimEnd()}`)
      if (ended !== 0) failed.push(`${job.file}: ${ended}`)
    }
  }
  await Promise.all(Array.from({ length: availableParallelism() }, worker))
  for (const name of readdirSync(reports)) {
    for (const block of ours(readFileSync(join(reports, name), 'utf8'))) {
      failed.push(`a report of the ${name.split('.')[0]} sanitizer`)
      console.error(block)
    }
  }
  for (const failure of failed) console.error(failure)
  return failed
}
