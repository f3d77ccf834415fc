// Finds the model files that the benches run on, and makes the synthetic ones.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, renameSync } from 'node:fs'
import { basename, join } from 'node:path'
import { convertModel } from '../dist/esm/index.js'
import { native } from '../dist/esm/native.js'
import { outputFolder, root } from './harness.mjs'
import { makeHierarchical } from './hierarchy.mjs'
import { widen } from './widen.mjs'

export const sharedFolder = process.env.TIERED_MOE_SHARED ?? join(root, '..', 'shared')
export const embeddedModel = join(root, 'models', 'tiny-shakespeare-moe-q8_0.gguf')
export const modelFolder = process.env.TIERED_MOE_BENCH_MODELS ?? join(outputFolder, 'models')

/** Runs `make(temporaryPath)` unless the file is there already; a half-made file never stays under its final name. */
async function once(name, make) {
  mkdirSync(modelFolder, { recursive: true })
  const path = join(modelFolder, name)
  if (existsSync(path)) return path
  const temporary = `${path}.${process.pid}`
  await make(temporary)
  renameSync(temporary, path)
  return path
}

/**
 * A file of seeded random weights made by the shared folder's synth_gguf.py, or undefined with the reason printed.
 * `options` are its options without dashes: `{ arch: 'olmoe', 'n-embd': 90 }`.
 */
export async function syntheticModel(name, options) {
  const script = join(sharedFolder, 'peer', 'synth_gguf.py')
  if (!existsSync(script)) {
    console.log(`skipped ${name}: ${script} is not there (TIERED_MOE_SHARED names the shared folder)`)
    return undefined
  }
  const flags = Object.entries(options).flatMap(([key, value]) =>
    value === true ? [`--${key}`] : [`--${key}`, String(value)]
  )
  try {
    return await once(name, (path) =>
      execFileSync('/usr/bin/python3', [script, path, ...flags], { stdio: ['ignore', 'ignore', 'pipe'] })
    )
  } catch (cause) {
    console.log(
      `skipped ${name}: ${String(cause.stderr ?? cause.message)
        .trim()
        .split('\n')
        .at(-1)} (needs python3 and numpy)`
    )
    return undefined
  }
}

/** The OLMoE-shaped file of 7 billion parameters, 3.9 GB. */
export const bigModel = () => syntheticModel('olmoe-1b-7b-q4_0.gguf', { preset: 'olmoe-1b-7b', type: 'Q4_0' })

/** The same with routers that choose some experts far more often than others. */
export const skewedBigModel = () =>
  syntheticModel('olmoe-1b-7b-q4_0-skewed.gguf', { preset: 'olmoe-1b-7b', type: 'Q4_0', 'router-skew': 1 })

/** The embedded model as a hierarchical one. */
export async function hierarchicalModel() {
  mkdirSync(modelFolder, { recursive: true })
  const made = join(modelFolder, 'tiny-shakespeare-moe-hser-q8_0.gguf')
  makeHierarchical(embeddedModel, made, 'olmoe')
  return made
}

/**
 * The trained model with weights of one type (f32, f16, q8_0, q4_0): `{ name, path }`. Without the shared folder f32 and f16 are the
 * embedded Q8_0 weights written out, and the name says so, because its logits are others.
 */
export async function trainedModel(type) {
  if (type === 'q8_0') return { name: type, path: embeddedModel }
  const shared = join(sharedFolder, 'models', `tiny-shakespeare-moe-${type === 'q4_0' ? 'f32' : type}.gguf`)
  mkdirSync(modelFolder, { recursive: true })
  const made = join(modelFolder, `tiny-shakespeare-moe-${type}.gguf`)
  if (type === 'q4_0') {
    // Made anew each time: it shows what today's quantiser writes.
    const source = await trainedModel('f32')
    const addon = native()
    await addon.quantizeGguf(source.path, made, { type: 'Q4_0' }, addon.createCancel())
    return { name: source.name.replace('f32', type), path: made }
  }
  if (existsSync(shared)) return { name: type, path: shared }
  widen(embeddedModel, made, type)
  return { name: `${type} (of q8_0)`, path: made }
}

const twoTiers = [
  { name: 'even', placement: 'hot', experts: [0, 2, 4, 6] },
  { name: 'others', placement: 'cold', experts: 'rest' }
]

/** The same model as a tiered checkpoint, made anew each time. `tiers`: null = the model's own. */
export async function checkpointOf(name, path, tiers = twoTiers) {
  mkdirSync(modelFolder, { recursive: true })
  const to = join(modelFolder, `${name.replaceAll(/[^a-z0-9_]+/g, '-')}.checkpoint`)
  await convertModel({ from: path, to, ...(tiers && { tiers }), replace: true })
  return to
}

/** The tiered checkpoint of a GGUF file, in one tier, converted where it is not there yet. */
export async function oneTierCheckpoint(model) {
  mkdirSync(modelFolder, { recursive: true })
  const to = join(modelFolder, `${basename(model, '.gguf')}.checkpoint`)
  if (!existsSync(join(to, 'manifest.json'))) await convertModel({ from: model, to })
  return to
}
