/** Rows that lie turned, by turns or apart from their scales, of matrices that are larger than one read. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { ggufHeader, type HeaderTensorType, tensorTypes } from '../../lib/safetensors/gguf-header.js'
import { addon } from '../checkpoint/checkpoints.js'
import { random } from '../fixtures/weights.js'

interface Apart {
  stored: HeaderTensorType
  shape: [columns: number, rows: number]
  bytes: number
  rowStep: number
  columnStep: number
  offset: number
  scales?: number
}

const draw = random(3)
const noise = (bytes: number) => Uint8Array.from({ length: bytes }, () => draw() * 256)

/** The bytes of the tensor, as a GGUF file of it alone has them. */
async function read(folder: string, data: Uint8Array, apart: Apart): Promise<Buffer> {
  const path = join(folder, 'data')
  writeFileSync(path, data)
  const { stored, shape, bytes, rowStep, columnStep, offset, scales } = apart
  const { header, dataBytes } = ggufHeader(new Map(), [{ name: 'a.weight', type: stored, shape, bytes }])
  const file = await addon.openGathered(folder, {
    header,
    dataBytes,
    files: [path],
    fileBytes: Float64Array.of(data.length),
    stored: Uint32Array.of(tensorTypes[stored]),
    halfHead: Uint32Array.of(0),
    rowStep: Float64Array.of(rowStep),
    columnStep: Float64Array.of(columnStep),
    parts: Uint32Array.of(1),
    partFile: Uint32Array.of(0),
    partOffset: Float64Array.of(offset),
    scaleFile: scales === undefined ? new Uint32Array(0) : Uint32Array.of(0),
    scaleOffset: scales === undefined ? new Float64Array(0) : Float64Array.of(scales)
  })
  t.match(file.tensors[0], { apart: true })
  await addon.writeBase(file, join(folder, 'made.gguf'), { leaveOut: [] }, addon.createCancel())
  file.close()
  return readFileSync(join(folder, 'made.gguf')).subarray(header.length, header.length + bytes)
}

t.test('turned, one of two by turns', async (t) => {
  // Few rows at a time of a long column, whose lines are read one by one; and a matrix of which a read takes some lines.
  for (const [columns, rows] of [
    [20_000, 60],
    [700, 300]
  ] as const) {
    const stored = new Uint32Array(noise(4 * columns * 2 * rows).buffer)
    const shape = { shape: [columns, rows] as [number, number], bytes: 4 * columns * rows }
    const places = { rowStep: 2, columnStep: 2 * rows, offset: 4 }
    const made = await read(t.testdir({}), new Uint8Array(stored.buffer), { stored: 'F32', ...shape, ...places })
    const expected = Uint32Array.from({ length: columns * rows }, (_, i) => {
      const [row, column] = [Math.floor(i / columns), i % columns]
      return stored[column * 2 * rows + 2 * row + 1]!
    })
    t.ok(made.equals(new Uint8Array(expected.buffer)), `${columns} × ${rows}`)
  }
})

t.test('codes of MXFP4 by turns, and scales behind them', async (t) => {
  const [blocks, rows] = [64, 600]
  const codes = blocks * 16
  const data = noise(2 * rows * (codes + blocks))
  const made = await read(t.testdir({}), data, {
    stored: 'MXFP4',
    shape: [32 * blocks, rows],
    bytes: 17 * blocks * rows,
    rowStep: 64 * blocks,
    columnStep: 1,
    offset: codes,
    scales: 2 * rows * codes + blocks
  })
  const code = (row: number, weight: number) =>
    (data[(2 * row + 1) * codes + (weight >> 1)]! >> (weight % 2 === 0 ? 0 : 4)) & 15
  let same = true
  for (let row = 0; row < rows; row++) {
    for (let b = 0; b < blocks; b++) {
      const at = 17 * (row * blocks + b)
      same &&= made[at] === data[2 * rows * codes + (2 * row + 1) * blocks + b]
      for (let i = 0; i < 32; i++)
        same &&= ((made[at + 1 + (i % 16)]! >> (i < 16 ? 0 : 4)) & 15) === code(row, 32 * b + i)
    }
  }
  t.ok(same, 'blocks of GGUF: weights i and i + 16 in byte i')
})
