/**
 * Typed reads of a file's metadata. Every failure is METADATA_INVALID naming the key, what was found and what is allowed.
 * Numbers arrive as JavaScript numbers whatever their type in the file, so ranges are checked here.
 */
import { createError } from '../errors/index.js'
import type { GgufMetadataValue } from '../native.js'

/** No size of a model may exceed this: native code counts in 32-bit signed integers. */
export const LARGEST_SIZE = 2 ** 31 - 1

export type RawMetadata = Readonly<Record<string, GgufMetadataValue>>

interface IntegerRange {
  min?: number
  max?: number
  default?: number
}

interface NumberRange extends IntegerRange {
  /** Whether `min` itself is refused. */
  above?: boolean
}

/** A short text of a value for a message: long values are cut. */
function show(value: GgufMetadataValue | undefined): string {
  if (value === undefined) return 'nothing'
  if (Array.isArray(value)) return `an array of ${value.length}`
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value)
  return text.length > 60 ? `${text.slice(0, 57)}...` : text
}

export class Metadata {
  /** @param prefix put before keys that start with a dot: `.block_count` is `olmoe.block_count` */
  constructor(
    readonly raw: RawMetadata,
    readonly prefix = ''
  ) {}

  withPrefix(prefix: string): Metadata {
    return new Metadata(this.raw, prefix)
  }

  key(key: string): string {
    return key.startsWith('.') ? this.prefix + key : key
  }

  get(key: string): GgufMetadataValue | undefined {
    const full = this.key(key)
    return Object.hasOwn(this.raw, full) ? this.raw[full] : undefined
  }

  has(key: string): boolean {
    return this.get(key) !== undefined
  }

  /** Throws METADATA_INVALID {key, found, allowed}. */
  refuse(key: string, allowed: string): never {
    const full = this.key(key)
    const found = show(this.get(key))
    throw createError('METADATA_INVALID', `metadata ${full}: found ${found}, allowed is ${allowed}`, {
      key: full,
      found,
      allowed
    })
  }

  integer(key: string, { min = 1, max = LARGEST_SIZE, default: fallback }: IntegerRange = {}): number {
    const value = this.get(key) ?? fallback
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
      this.refuse(key, `an integer from ${min} to ${max}`)
    }
    return value
  }

  number(key: string, { min = -Infinity, max = Infinity, above, default: fallback }: NumberRange = {}): number {
    const value = this.get(key) ?? fallback
    // NaN fails both comparisons, so it is asked for by name
    if (
      typeof value !== 'number' ||
      !Number.isFinite(value) ||
      value < min ||
      value > max ||
      (above && value === min)
    ) {
      this.refuse(key, `a finite number ${above ? 'above' : 'from'} ${min} to ${max}`)
    }
    return value
  }

  string(key: string): string {
    const value = this.get(key)
    if (typeof value !== 'string') this.refuse(key, 'a string')
    return value
  }

  optionalString(key: string): string | undefined {
    return this.has(key) ? this.string(key) : undefined
  }

  boolean(key: string, fallback: boolean): boolean {
    const value = this.get(key) ?? fallback
    if (typeof value !== 'boolean') this.refuse(key, 'a boolean')
    return value
  }

  strings(key: string): string[] {
    const value = this.get(key)
    if (!Array.isArray(value) || (value.length > 0 && typeof value[0] !== 'string')) {
      this.refuse(key, 'an array of strings')
    }
    return value as string[]
  }

  numbers(key: string): number[] {
    const value = this.get(key)
    if (!Array.isArray(value) || (value.length > 0 && typeof value[0] !== 'number')) {
      this.refuse(key, 'an array of numbers')
    }
    return value as number[]
  }
}
