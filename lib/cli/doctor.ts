/** `tiered-moe doctor`: what this machine offers, what is missing and how to get it. */
import { existsSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import type { Command } from 'commander'
import loaded from '#addon'
import { GpuDevice } from '../backends/webgpu/device.js'
import { onNode } from '../backends/webgpu/node-provider.js'
import { type EngineError, isEngineError } from '../errors/index.js'
import { openCuda } from '../kernels/cuda.js'
import { DEFAULT_MODEL, locateModel } from '../model/embedded.js'
import { type CpuInfo, type Isa, native, packageRoot } from '../native.js'
import { formatBytes, formatPairs } from './format.js'
import { showLeaks } from './leaks.js'
import type { Session } from './session.js'

interface Missing {
  what: string
  /** How to get it, or why one may do without. */
  how: string
}

interface Adapter {
  name: string
  available: boolean
  note: string
}

interface Report {
  version: string
  node: string
  platform: string
  addon: { loaded: boolean; tried: { request: string; reason: string }[] }
  cpu: (CpuInfo & { isa: Isa }) | null
  threads: number
  memory: { totalBytes: number; availableBytes: number | null }
  adapters: Adapter[]
  embeddedModel: { name: string; present: boolean }
  missing: Missing[]
}

/** What the addon knows, or why it cannot be asked. */
function askAddon(): { cpu: CpuInfo & { isa: Isa }; available: number } | EngineError {
  try {
    const addon = native()
    const backend = addon.createBackend({ threads: 1, isa: 'auto' })
    const { isa } = backend
    backend.dispose()
    return { cpu: { ...addon.cpuInfo(), isa }, available: addon.availableMemory() }
  } catch (error) {
    if (isEngineError(error)) return error
    throw error
  }
}

/** A GPU through WebGPU: its name and what its shaders may use, or why there is none. */
async function askWebgpu(): Promise<{ adapter: Adapter; missing: Missing[] }> {
  const name = 'webgpu'
  try {
    const device = await GpuDevice.open(onNode)
    const { subgroups, f16, dot4, limits, subgroupMin, subgroupMax } = device.facts
    device.dispose()
    const has = [
      subgroups && `subgroups of ${subgroupMin === subgroupMax ? subgroupMin : `${subgroupMin} to ${subgroupMax}`}`,
      f16 && 'f16',
      dot4 && 'int8 products'
    ].filter(Boolean)
    const { maxBufferSize, maxStorageBufferBindingSize } = limits
    const sizes = `buffers of ${formatBytes(maxBufferSize)}, bindings of ${formatBytes(maxStorageBufferBindingSize)}`
    return { adapter: { name, available: true, note: `${device.name}: ${[...has, sizes].join(', ')}` }, missing: [] }
  } catch (error) {
    if (!isEngineError(error)) throw error
    const { message, details } = error
    return {
      adapter: { name, available: false, note: message },
      missing: [{ what: 'WebGPU', how: details.suggestedAction }]
    }
  }
}

/** A GPU through CUDA; to do without is no lack. */
async function askCuda(): Promise<Adapter> {
  const name = 'cuda'
  try {
    const cuda = await openCuda()
    cuda.dispose()
    return { name, available: true, note: cuda.device }
  } catch (error) {
    if (!isEngineError(error)) throw error
    return { name, available: false, note: error.message }
  }
}

async function examine(version: string): Promise<{ report: Report; failure: EngineError | undefined }> {
  const answer = askAddon()
  const failure = isEngineError(answer) ? answer : undefined
  const known = isEngineError(answer) ? undefined : answer
  const threads = availableParallelism()
  const present = existsSync(locateModel(packageRoot()).path)
  const missing: Missing[] = []
  if (failure) missing.push({ what: failure.message, how: failure.details.suggestedAction })
  // Shaders are in the addon: without it there is nothing to ask a GPU.
  const noGpu = { adapter: { name: 'webgpu', available: false, note: 'no addon' }, missing: [] }
  const webgpu = failure ? noGpu : await askWebgpu()
  missing.push(...webgpu.missing)
  if (!present) missing.push({ what: 'the embedded model', how: 'reinstall the package, or give a GGUF file' })
  if (known?.cpu.isa === 'scalar') {
    missing.push({
      what: 'vector instructions (AVX2, AVX-512 VNNI or NEON)',
      how: 'works without, much slower; use another CPU'
    })
  } else if (known?.cpu.isa === 'avx2') {
    missing.push({ what: 'AVX-512 VNNI', how: 'works without; int8 products are about half as fast' })
  }
  if (known && known.available < 2 ** 30) {
    missing.push({
      what: 'memory: less than 1 GiB is available',
      how: 'close programs, or use a Q4_0 file (`tiered-moe quantize`)'
    })
  }
  const report: Report = {
    version,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    addon: { loaded: loaded.addon !== undefined, tried: loaded.tried },
    cpu: known?.cpu ?? null,
    threads,
    memory: { totalBytes: totalmem(), availableBytes: known?.available ?? null },
    adapters: [
      {
        name: 'cpu',
        available: known !== undefined,
        note: known ? `${known.cpu.isa}, ${threads} threads` : 'no addon'
      },
      webgpu.adapter,
      await askCuda()
    ],
    embeddedModel: { name: DEFAULT_MODEL, present },
    missing
  }
  return { report, failure }
}

function show({
  version,
  node,
  platform,
  addon,
  cpu,
  threads,
  memory,
  adapters,
  embeddedModel,
  missing
}: Report): string {
  const available = memory.availableBytes === null ? 'unknown' : formatBytes(memory.availableBytes)
  const features = Object.entries(cpu?.features ?? {})
  const names = (present: boolean) => features.filter(([, has]) => has === present).map(([name]) => name)
  const facts: [string, string][] = [
    ['version', `tiered-moe ${version}, Node ${node}, ${platform}`],
    ['addon', addon.loaded ? 'loaded' : 'not loaded']
  ]
  for (const { request, reason } of addon.loaded ? [] : addon.tried) facts.push(['  tried', `${request}: ${reason}`])
  if (cpu) {
    facts.push(
      ['processor', cpu.model],
      ['instructions', `${cpu.isas.join(', ')}; in use: ${cpu.isa}`],
      [
        'features',
        `${names(true).join(' ') || 'none'}${names(false).length > 0 ? `; not: ${names(false).join(' ')}` : ''}`
      ]
    )
  }
  facts.push(
    ['threads', String(threads)],
    ['memory', `${available} available of ${formatBytes(memory.totalBytes)}`],
    ...adapters.map(({ name, available: has, note }): [string, string] => [name, `${has ? 'yes' : 'no'} (${note})`]),
    ['model', `${embeddedModel.name}: ${embeddedModel.present ? 'present' : 'missing'}`]
  )
  const lines = missing.map(({ what, how }) => `- ${what}: ${how}\n`).join('')
  return `${formatPairs(facts)}\n${lines ? `missing\n${lines}` : 'nothing is missing\n'}`
}

export function addDoctor(program: Command, session: Session, version: string): void {
  program
    .command('doctor')
    .description('show what this machine offers, what is missing and how to get it')
    .option('--leaks', 'load, generate and dispose three times, and say what was not given back')
    .option('--json', 'one JSON object')
    .action(async (options: { leaks?: boolean; json?: boolean }) => {
      if (options.leaks) return showLeaks(session, options.json ?? false)
      const { report, failure } = await examine(version)
      if (options.json) session.json(report)
      else session.write(show(report))
      if (failure) throw failure
    })
}
