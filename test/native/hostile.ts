/** Values that no function expects, and every way to put one into an argument list. */
import type { Test } from 'tap'
import { isEngineError } from 'tiered-moe'

/** What a getter or a proxy of ours throws: passed on by the addon as it is. */
export const thrown = new Error('thrown by the test')

export interface Hostile {
  name: string
  value: unknown
}

function detached(array: ArrayBufferView & { buffer: ArrayBufferLike }): ArrayBufferView {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] })
  return array
}

const throwing = new Proxy(
  {},
  {
    get() {
      throw thrown
    },
    getPrototypeOf() {
      throw thrown
    },
    ownKeys() {
      throw thrown
    }
  }
)

type Resizable = new (length: number, options: { maxByteLength: number }) => ArrayBuffer

/** Made anew for every use: a call may have changed them. */
export function hostileValues(): Hostile[] {
  const shrunk = new (ArrayBuffer as unknown as Resizable)(64, { maxByteLength: 128 })
  return [
    ...[undefined, null, true, '', 'x', 'x\0y', 10n, Symbol('s'), () => 1, {}, [], throwing, new Date()].map(
      (value) => ({
        name:
          typeof value === 'symbol'
            ? 'symbol'
            : value === throwing
              ? 'proxy that throws'
              : String(Object.prototype.toString.call(value)),
        value
      })
    ),
    ...[
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
      -1,
      -0,
      0,
      0.5,
      1,
      3,
      2 ** 24,
      2 ** 31,
      2 ** 32,
      2 ** 53,
      -(2 ** 63),
      1e308
    ].map((value) => ({ name: Object.is(value, -0) ? '-0' : String(value), value })),
    { name: 'a text of 1 MB', value: 'x'.repeat(1 << 20) },
    { name: 'detached floats', value: detached(new Float32Array(64)) },
    { name: 'detached integers', value: detached(new Int32Array(64)) },
    { name: 'detached bytes', value: detached(new Uint8Array(64)) },
    { name: 'no floats', value: new Float32Array(0) },
    { name: 'one float', value: new Float32Array(1) },
    { name: 'floats that are NaN', value: new Float32Array(4096).fill(Number.NaN) },
    { name: 'huge floats', value: new Float32Array(4096).fill(3e38) },
    { name: 'doubles', value: new Float64Array(64) },
    { name: 'negative integers', value: new Int32Array(64).fill(-1) },
    { name: 'large integers', value: new Int32Array(64).fill(2 ** 31 - 1) },
    { name: 'large indices', value: new Uint32Array(64).fill(2 ** 32 - 1) },
    { name: 'falling indices', value: Uint32Array.from({ length: 64 }, (_, i) => 64 - i) },
    { name: 'no indices', value: new Uint32Array(0) },
    { name: 'one byte', value: new Uint8Array(1) },
    { name: 'bytes at an odd address', value: new Uint8Array(new ArrayBuffer(70_000), 1) },
    { name: 'shared bytes', value: new Uint8Array(new SharedArrayBuffer(64)) },
    { name: 'resizable floats', value: new Float32Array(shrunk) },
    { name: 'a buffer', value: new ArrayBuffer(64) },
    { name: 'a view', value: new DataView(new ArrayBuffer(64)) }
  ]
}

const isPlain = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype

export type Path = (string | number)[]

/** Every place in a value: itself, then what its arrays and plain objects hold. */
export function places(value: unknown, at: Path = []): Path[] {
  const below = Array.isArray(value)
    ? value.flatMap((item, i) => places(item, [...at, i]))
    : isPlain(value)
      ? Object.entries(value).flatMap(([key, item]) => places(item, [...at, key]))
      : []
  return at.length > 0 ? [at, ...below] : below
}

/** A copy of arrays and plain objects with one place replaced; typed arrays and native objects are shared. */
export function replaced(value: unknown, path: Path, by: unknown): unknown {
  const [key, ...rest] = path
  if (key === undefined) return by
  const copy = Array.isArray(value) ? [...value] : { ...(value as Record<string, unknown>) }
  const inside = copy as Record<string | number, unknown>
  inside[key] = replaced(inside[key], rest, by)
  return copy
}

/** `fine`, or the code of the typed error; anything else that is thrown is the test's failure. */
export async function outcome(call: () => unknown): Promise<string> {
  try {
    await call()
    return 'fine'
  } catch (error) {
    if (error === thrown) return 'passed on'
    if (isEngineError(error)) return error.code
    throw error
  }
}

/** Calls `f` with every hostile value in every place of its arguments; returns what was neither fine nor a typed error, and the counts. */
export async function besiege(args: readonly unknown[], f: (args: unknown[]) => unknown) {
  const failures: string[] = []
  const counts = new Map<string, number>()
  for (const path of places(args)) {
    for (const { name, value } of hostileValues()) {
      try {
        const result = await outcome(() => f(replaced(args, path, value) as unknown[]))
        counts.set(result, (counts.get(result) ?? 0) + 1)
      } catch (error) {
        failures.push(`${path.join('.')} = ${name}: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
  }
  return { failures, counts }
}

/** What a siege came to: each result is one that may be. */
export function report(t: Test, name: string, { failures, counts }: Awaited<ReturnType<typeof besiege>>): void {
  t.same(failures, [], name)
  t.comment(`${name}: ${[...counts].map(([code, count]) => `${code} ${count}`).join(', ')}`)
}
