// What every bench shares: statistics, the stamp of the machine, tables, reports. No measurement lives here.
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..')
export const outputFolder = join(root, '.bench')

/** Median, least, greatest and spread ((greatest - least) / median) of some figures. */
export function summarise(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const median = sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
  const [min, max] = [sorted[0], sorted.at(-1)]
  return { median, min, max, spread: median ? (max - min) / Math.abs(median) : 0, count: sorted.length }
}

/** The value that a share `p` (0 to 1) of the figures does not exceed. */
export function percentile(values, p) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.ceil(p * sorted.length) - 1)]
}

/** Three significant digits, or whole numbers from 1000 on. */
export const show = (x) =>
  x === undefined || Number.isNaN(x)
    ? '-'
    : Math.abs(x) >= 1000
      ? String(Math.round(x))
      : String(Number(x.toPrecision(3)))
export const showSpread = (s) => (s ? `${show(s.median)} (${show(s.min)}-${show(s.max)})` : '-')
export const mebibytes = (bytes) => Math.round(bytes / 2 ** 20)

/** Prints rows (arrays of cells) in aligned columns under their heads. */
export function printTable(heads, rows) {
  const cells = [heads, ...rows].map((row) => row.map((cell) => String(cell ?? '-')))
  const widths = heads.map((_, i) => Math.max(...cells.map((row) => row[i].length)))
  for (const [i, row] of cells.entries()) {
    console.log(
      row
        .map((cell, j) => cell.padEnd(widths[j]))
        .join('  ')
        .trimEnd()
    )
    if (i === 0) console.log(widths.map((width) => '-'.repeat(width)).join('  '))
  }
}

/** Where and when the figures were taken. */
export function environment() {
  let commit = 'unknown'
  try {
    commit = execFileSync('git', ['describe', '--always', '--dirty'], {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore']
    }).trim()
  } catch {
    // A packed copy has no history.
  }
  return {
    date: new Date().toISOString(),
    commit,
    node: process.version,
    kernel: release(),
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    memoryMiB: mebibytes(totalmem()),
    load: loadavg()[0]
  }
}

export function printEnvironment(stamp) {
  console.log(
    `${stamp.cpu}, ${stamp.cores} cores, ${stamp.memoryMiB} MiB, Linux ${stamp.kernel}, Node ${stamp.node}, commit ${stamp.commit}, ${stamp.date}`
  )
  if (stamp.load > 0.5)
    console.log(`warning: load average ${stamp.load.toFixed(2)}: something else runs, figures will be low`)
}

/** Writes a report into .bench/ and returns its path. */
export function writeReport(name, content) {
  mkdirSync(outputFolder, { recursive: true })
  const path = join(outputFolder, name)
  writeFileSync(path, typeof content === 'string' ? content : `${JSON.stringify(content, null, 2)}\n`)
  return path
}

/** Peak resident bytes of a process (this one by default), as the kernel counts them; 0 once it is gone. */
export function peakMemory(pid = 'self') {
  try {
    return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
  } catch {
    return 0
  }
}

export function residentMemory() {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) * 1024
}

/** Seeded 32-bit generator (splitmix style): the same figures' inputs in every run. Returns numbers in [0, 1). */
export function seededRandom(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x9e3779b9) >>> 0
    let x = state
    x = Math.imul(x ^ (x >>> 16), 0x21f0aaad)
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
    return ((x ^ (x >>> 15)) >>> 0) / 2 ** 32
  }
}

export function randomTokens(count, vocab, seed) {
  const random = seededRandom(seed)
  return Int32Array.from({ length: count }, () => Math.floor(random() * vocab))
}
