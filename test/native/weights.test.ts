/** Weights piece by piece: any cut of a tensor gives the bytes of the whole, in the layout of its role. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { DType } from 'tiered-moe/kernels'
import { openBackend } from 'tiered-moe/kernels'
import type { readModel as ReadModel } from '../../lib/model/index.js'
import type { native as Native } from '../../lib/native.js'
import { readGgufHeader } from '../fixtures/gguf.js'
import { writeMoeModel } from '../fixtures/moe-model.js'
import { builtUrl } from '../fixtures/package.js'

const nativePath = builtUrl('native.js')
const modelPath = builtUrl('model/index.js')
const { native } = (await import(nativePath)) as { native: typeof Native }
const { readModel } = (await import(modelPath)) as { readModel: typeof ReadModel }
const addon = native()

t.test('pieces', async (t) => {
  const kernels = openBackend('cpu')
  const backend = addon.createBackend({ threads: 2, isa: 'auto' })
  t.teardown(() => {
    kernels.dispose()
    backend.dispose()
  })
  for (const type of ['F16', 'Q8_0', 'Q4_0'] as const) {
    const path = writeMoeModel(join(t.testdir(), `${type}.gguf`), { type, embedding: 64, feedForward: 96, vocab: 300 })
    const bytes = readFileSync(path)
    const header = readGgufHeader(path)
    const file = await addon.openGguf(path)
    t.teardown(() => file.close())
    const { plan } = readModel(file)
    const infos = new Map(backend.describeWeights(file, plan).map((info) => [info.name, info]))
    const cancel = addon.createCancel()
    for (const tensor of plan.tensors) {
      const found = header.tensors.find(({ name }) => name === (tensor.source ?? tensor.name))!
      const raw = file.tensors.find(({ name }) => name === found.name)!
      const data = bytes.subarray(header.dataOffset + found.offset, header.dataOffset + found.offset + raw.bytes)
      const [columns, rows = 1, experts = 1] = tensor.shape as [number, number?, number?]
      const info = infos.get(tensor.name)
      t.equal(info === undefined, tensor.role === 'experts', tensor.name)
      const read = (expert: number, firstRow: number, count: number, length: number) => {
        const out = new Uint8Array(length)
        const piece = { expert, firstRow, rows: count, out }
        return backend.readWeight(file, tensor, piece, cancel).then(({ exponent }) => ({ out, exponent }))
      }
      if (tensor.role === 'vector') {
        t.same((await read(0, 0, 1, columns * 4)).out, new Uint8Array(data), 'floats')
      } else if (tensor.role === 'router') {
        const floats = new Float32Array(new Uint8Array(data).buffer)
        const { router, routerExponent } = kernels.packRouter(floats)
        const { out, exponent } = await read(0, 0, rows, columns * rows * 4)
        t.same(new Int32Array(out.buffer), router, 'integers')
        t.equal(exponent, routerExponent)
      } else {
        const each = data.length / experts
        for (let expert = 0; expert < Math.min(experts, 2); expert++) {
          const own = new Uint8Array(data.subarray(expert * each, (expert + 1) * each))
          const packed = tensor.role !== 'embedding'
          const matrix = { type: raw.type as DType, rows, columns, data: own }
          const whole = packed ? kernels.pack(matrix).data : own
          const group = whole.length / Math.ceil(rows / (packed ? 16 : 1))
          const cut = packed ? 32 : 7
          const parts: Uint8Array[] = []
          for (let row = 0; row < rows; row += cut) {
            const count = Math.min(cut, rows - row)
            parts.push((await read(expert, row, count, group * (packed ? Math.ceil(count / 16) : count))).out)
          }
          t.ok(Buffer.concat(parts).equals(whole), `${type} ${tensor.name} expert ${expert}`)
        }
      }
    }
  }
})

t.test('refusals', async (t) => {
  const backend = addon.createBackend({ threads: 1, isa: 'auto' })
  t.teardown(() => backend.dispose())
  const path = writeMoeModel(join(t.testdir(), 'm.gguf'), { type: 'F16' })
  const file = await addon.openGguf(path)
  const { plan } = readModel(file)
  const tensor = plan.tensors.find(({ role }) => role === 'matrix')!
  const cancel = addon.createCancel()
  t.equal(cancel.cancelled, false)
  const piece = { expert: 0, firstRow: 0, rows: 16, out: new Uint8Array(16 * 64 * 2) }
  const refused = { code: 'VALIDATION_ERROR' }
  await t.rejects(backend.readWeight(file, tensor, { ...piece, firstRow: 8 }, cancel), refused, 'inside a group')
  await t.rejects(backend.readWeight(file, tensor, { ...piece, rows: 1000 }, cancel), refused, 'beyond the rows')
  await t.rejects(backend.readWeight(file, tensor, { ...piece, out: new Uint8Array(5) }, cancel), refused, 'too small')
  const absent = { ...tensor, name: 'no.such.weight' }
  await t.rejects(backend.readWeight(file, absent, piece, cancel), { code: 'TENSOR_MISSING' })
  t.throws(
    () => backend.describeWeights(file, { ...plan, ops: [...plan.ops, { op: 'logits', in: 'x', weight: 'y' }] }),
    refused
  )
  cancel.cancel()
  t.equal(cancel.cancelled, true)
  await t.rejects(backend.readWeight(file, tensor, piece, cancel), { code: 'CANCELLED' })
  file.close()
  await t.rejects(backend.readWeight(file, tensor, piece, addon.createCancel()), refused, 'a closed file')
})
