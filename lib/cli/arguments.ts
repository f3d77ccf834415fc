/** Command line values to typed ones. What is out of range is a usage error before anything is loaded. */
import { InvalidArgumentError } from 'commander'

/** The properties of `options` that were given. */
export function given<Options extends object>(
  options: Options
): { [K in keyof Options]: Exclude<Options[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof Options]: Exclude<Options[K], undefined>
  }
}

function parse(text: string, allowed: string, accept: (value: number) => boolean): number {
  const value = text.trim() === '' ? Number.NaN : Number(text)
  if (!Number.isFinite(value) || !accept(value)) throw new InvalidArgumentError(`Allowed is ${allowed}.`)
  return value
}

export const integer =
  (min: number, max: number = Number.MAX_SAFE_INTEGER) =>
  (text: string): number =>
    parse(
      text,
      max === Number.MAX_SAFE_INTEGER ? `an integer from ${min} on` : `an integer from ${min} to ${max}`,
      (value) => Number.isInteger(value) && value >= min && value <= max
    )

export const number =
  (min: number, max: number) =>
  (text: string): number =>
    parse(text, `a number from ${min} to ${max}`, (value) => value >= min && value <= max)

/** What a command takes that runs a model. */
export const modelArgument =
  'a GGUF file, a folder of safetensors files or of a checkpoint, or the name of an embedded model'

/** A type that matrices can be written in. */
export function quantizedType(text: string): 'Q8_0' | 'Q4_0' {
  const type = text.toUpperCase()
  if (type === 'Q8_0' || type === 'Q4_0') return type
  throw new InvalidArgumentError('Allowed is q8_0 or q4_0.')
}

/** The path of a file or folder: an empty one would mean this folder. */
export function filePath(text: string): string {
  if (text === '') throw new InvalidArgumentError('Allowed is a path.')
  return text
}

/** An option that may be given several times. */
export const several = (value: string, before: string[] | undefined): string[] => [...(before ?? []), value]
