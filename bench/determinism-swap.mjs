// A model whose experts change while it serves: one replaced, two merged, and the file that had them so from the start.
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { openSource } from '../dist/esm/checkpoint/source.js'
import { makeVersions } from '../dist/esm/experts/changes.js'
import { native } from '../dist/esm/native.js'
import { modelFolder, trainedModel } from './models.mjs'
import { rewriteGguf } from './rewrite.mjs'

const replaced = { layer: 1, expert: 3, fromExpert: 7 }
const merged = { layer: 0, experts: [2, 5], weights: [3, 1] }
const bytesOfF32 = 4

/** The new bytes of a tensor of F32 experts, computed here: nothing of the product has a part in what its swaps have to be equal to. */
function changeExperts({ name, shape }, data) {
  const [, layer] = /^blk\.(\d+)\.ffn_(?:gate|up|down)_exps\.weight$/.exec(name) ?? []
  const count = shape.reduce((product, n) => product * n, 1)
  const out = Buffer.from(data.subarray(0, count * bytesOfF32))
  const bytes = out.length / shape.at(-1)
  const expert = (i) => out.subarray(i * bytes, (i + 1) * bytes)
  if (Number(layer) === replaced.layer) expert(replaced.fromExpert).copy(expert(replaced.expert))
  if (Number(layer) === merged.layer) {
    const [a, b] = merged.experts.map(expert)
    for (let at = 0; at < bytes; at += bytesOfF32) {
      // Exact in doubles but for the last rounding: two products of 24 bits each.
      const value = Math.fround(Math.fround(0.75 * a.readFloatLE(at)) + 0.25 * b.readFloatLE(at))
      a.writeFloatLE(value, at)
      b.writeFloatLE(value, at)
    }
  }
  return out
}

/**
 * `{ before, after, blobs }`: the paths of the F32 model and of the one that had the changed experts from the start, and the changed experts
 * `[{ layer, expert, blob }]` as a swap makes them of the first.
 */
export async function swappedModel() {
  const { path: before } = await trainedModel('f32')
  const folder = join(modelFolder, 'swapped')
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  const after = join(folder, 'f32.gguf')
  rewriteGguf(before, after, (tensor, data) => [{ ...tensor, data: changeExperts(tensor, data) }])
  const addon = native()
  const { layers, description, close } = await openSource(addon, before)
  close()
  const model = {
    addon,
    path: before,
    isCheckpoint: false,
    checkUnchanged() {},
    experts: description.sizes.experts,
    layers,
    use: () => ({ rows: new Float64Array(layers.length * description.sizes.experts) }),
    newest: () => ({ epoch: 0, version: 0, blob: undefined }),
    folder: join(folder, 'blobs')
  }
  const changes = [
    { action: 'replace', ...replaced, from: before },
    { action: 'merge', ...merged }
  ]
  return { before, after, blobs: await makeVersions(model, changes) }
}

/** The version that a model was loaded with: in a checkpoint a blob, in a file what is there. */
function loadedVersion({ blobs, model }, layer, expert) {
  if (!blobs) return { epoch: 0 }
  const at = layer * model.routing.experts + expert
  return { epoch: 0, path: blobs.files[blobs.fileIndex[at]], offset: blobs.offset[at], crc32c: blobs.crc32c[at] }
}

/**
 * Gives an opened model the changed experts: `alone`, for all requests, or `beside` those that it was loaded with, for requests of epoch 1.
 */
export const placeSwapped = (opened, blobs, how) =>
  opened.model.placeVersions(
    blobs.map(({ layer, expert, blob: { path, offset, crc32c } }) => {
      const version = { epoch: how === 'alone' ? 0 : 1, path, offset, crc32c }
      return { layer, expert, versions: how === 'alone' ? [version] : [loadedVersion(opened, layer, expert), version] }
    })
  )
