/** Checks of a kernel's arguments, with the errors that the CPU backend's have (csrc/napi/args.h, kernel_args.h). */
import type { EngineError } from '../../../errors/index.js'
import { createError } from '../../../errors/index.js'
import type { DeviceArray, Element, HostArrays } from '../../../kernels/device-arrays.js'
import { arrayTypes, elementOf, GpuArray, hostArray } from '../device-array.js'
import type { KernelCall } from './call.js'

/** The largest count that a kernel takes, the most experts of a token and of a router, and the largest head (csrc/napi/kernel_calls.h). */
export const mostSize = 2 ** 24
export const mostChosen = 256
export const mostExperts = 4096
export const mostHeadDim = 2 ** 16

/** VALIDATION_ERROR {argument, expected, actual}. */
export const refused = (argument: string, expected: string, actual: string): EngineError =>
  createError('VALIDATION_ERROR', `${argument}: expected ${expected}, got ${actual}`, { argument, expected, actual })

function describe(value: unknown): string {
  if (value instanceof GpuArray) return `a device array of ${value.length} ${value.element}`
  const element = elementOf(value)
  if (element) return `${arrayTypes[element].name}(${(value as { length: number }).length})`
  if (typeof value === 'number') return String(value)
  return value === null || value === undefined ? String(value) : `a value of type ${typeof value}`
}

export function integerArgument(name: string, value: unknown, least: number, most: number): number {
  if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) return value as number
  throw refused(name, `an integer from ${least} to ${most}`, describe(value))
}

export function numberArgument(name: string, value: unknown, least: number, most: number): number {
  if (typeof value === 'number' && value >= least && value <= most) return value
  throw refused(name, `a number from ${least} to ${most}`, describe(value))
}

export function flagArgument(name: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value
  throw refused(name, 'a boolean', describe(value))
}

export function choiceArgument<Choice extends string>(
  name: string,
  value: unknown,
  choices: readonly Choice[]
): Choice {
  if (choices.includes(value as Choice)) return value as Choice
  throw refused(name, `one of ${choices.join(', ')}`, typeof value === 'string' ? value : describe(value))
}

/** An array of one element, at least so long, with memory that is still there. */
export function arrayArgument<E extends Element>(
  name: string,
  value: unknown,
  element: E,
  least: number
): HostArrays[E] | GpuArray<E> {
  const Type = arrayTypes[element].name
  const own = value instanceof GpuArray ? value.element : elementOf(value)
  if (own !== element) throw refused(name, `${Type} or a device array of ${element}`, describe(value))
  const array = value as HostArrays[E] | GpuArray<E>
  if (array instanceof GpuArray) {
    if (!array.binding) throw refused(name, 'a device array', 'one that was disposed')
  } else if (array.length === 0 && (array.buffer as { detached?: boolean }).detached) {
    throw refused(name, `a ${Type}`, 'one whose buffer is detached')
  }
  if (array.length < least) throw refused(name, `a ${Type} of at least ${least} elements`, describe(value))
  return array
}

/** An array of exactly so many floats. */
export function exactArgument(name: string, value: unknown, length: number): HostArrays['f32'] | GpuArray<'f32'> {
  const array = arrayArgument(name, value, 'f32', length)
  if (array.length !== length) throw refused(name, `${length} elements`, String(array.length))
  return array
}

/** How many parts of `each` elements an array has. */
export function partsOf(name: string, length: number, each: number): number {
  if (each > 0 && length % each === 0) return length / each
  throw refused(name, `a multiple of ${each} elements`, String(length))
}

/** Whether two arrays share bytes. */
export function overlap(a: ArrayBufferView | DeviceArray, b: ArrayBufferView | DeviceArray): boolean {
  if (!ArrayBuffer.isView(a) || !ArrayBuffer.isView(b)) return a === b
  return (
    a.buffer === b.buffer && a.byteOffset < b.byteOffset + b.byteLength && b.byteOffset < a.byteOffset + a.byteLength
  )
}

export const liesOver = (name: string): EngineError =>
  createError('VALIDATION_ERROR', `${name}: it lies over another array of the call`, { argument: name })

/** A small array that the host looks at: itself, or a copy where it is on the device. */
export async function hostArgument<E extends Element>(
  call: KernelCall,
  name: string,
  value: unknown,
  element: E,
  least: number
): Promise<HostArrays[E]> {
  const array = arrayArgument(name, value, element, least)
  if (!(array instanceof GpuArray)) return array
  return hostArray(element, await call.read(await call.input(name, array, element)), array.length)
}
