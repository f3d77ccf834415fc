/** The frames between an engine and its worker: a head of 16 bytes (little-endian), then a payload. */
import type { EngineError } from '../errors/index.js'
import { createError } from '../errors/index.js'
import { native } from '../native.js'

/** message: JSON-RPC 2.0 as JSON. attachment: bytes that the next message names. tokens: items of a stream (tokens.ts). */
export const frameKinds = { message: 0, attachment: 1, tokens: 2 } as const

/** Most bytes that a payload of each kind may have. */
export const longestPayload: readonly number[] = [16 * 2 ** 20, 2 ** 30, 16 * 2 ** 20]

/** Magic u16, version u8, kind u8, length u32, id u32, CRC-32C u32 of the twelve bytes before it and the payload. */
const headBytes = 16
const summedBytes = 12
const magic = 0x4d54
const version = 1

export interface Frame {
  kind: number
  /** Of an attachment its own, of tokens the stream's, of a message 0. */
  id: number
  payload: Buffer
}

/** What is written for a frame, in order. */
export function encodeFrame({ kind, id, payload }: Frame): Buffer[] {
  const head = Buffer.alloc(headBytes)
  head.writeUInt16LE(magic, 0)
  head.writeUInt8(version, 2)
  head.writeUInt8(kind, 3)
  head.writeUInt32LE(payload.length, 4)
  head.writeUInt32LE(id, 8)
  head.writeUInt32LE(checksum(head, payload), summedBytes)
  return payload.length > 0 ? [head, payload] : [head]
}

const checksum = (head: Buffer, payload: Buffer): number =>
  native().crc32c(payload, native().crc32c(head.subarray(0, summedBytes)))

/** WORKER_PROTOCOL_ERROR {reason, frame: {kind, length}}. */
export const protocolError = (reason: string, kind: number | null, length: number | null): EngineError =>
  createError('WORKER_PROTOCOL_ERROR', `the channel to a worker broke: ${reason}`, { reason, frame: { kind, length } })

/** Frames out of the pieces in which bytes arrive. */
export class FrameDecoder {
  #pieces: Buffer[] = []
  #bytes = 0
  #head: Buffer | undefined
  #fault: EngineError | undefined

  /** The frames that are whole with this piece. Throws WORKER_PROTOCOL_ERROR, from then on always. */
  push(piece: Buffer): Frame[] {
    if (this.#fault) throw this.#fault
    this.#pieces.push(piece)
    this.#bytes += piece.length
    const frames: Frame[] = []
    for (;;) {
      if (!this.#head) {
        if (this.#bytes < headBytes) return frames
        this.#head = this.#take(headBytes)
        this.#checkHead(this.#head)
      }
      const [kind, length, id] = [this.#head[3]!, this.#head.readUInt32LE(4), this.#head.readUInt32LE(8)]
      if (this.#bytes < length) return frames
      const payload = this.#take(length)
      if (checksum(this.#head, payload) !== this.#head.readUInt32LE(summedBytes)) {
        throw this.#broken('a checksum that does not match', kind, length)
      }
      this.#head = undefined
      frames.push({ kind, id, payload })
    }
  }

  /** The length decides how much is waited for, so what can be wrong with it is looked at first. */
  #checkHead(head: Buffer): void {
    const [kind, length] = [head[3]!, head.readUInt32LE(4)]
    if (head.readUInt16LE(0) !== magic) throw this.#broken('no frame where one should begin', kind, length)
    if (head[2] !== version) throw this.#broken(`frames of version ${head[2]}`, kind, length)
    const longest = longestPayload[kind]
    if (longest === undefined) throw this.#broken('a frame of unknown kind', kind, length)
    if (length > longest) throw this.#broken(`a frame of more than ${longest} bytes`, kind, length)
  }

  #broken(reason: string, kind: number, length: number): EngineError {
    this.#fault = protocolError(reason, kind, length)
    this.#pieces = []
    return this.#fault
  }

  #take(count: number): Buffer {
    this.#bytes -= count
    const [first] = this.#pieces
    if (count === 0) return Buffer.alloc(0)
    if (first && first.length > count) {
      this.#pieces[0] = first.subarray(count)
      return first.subarray(0, count)
    }
    const all = this.#pieces.length === 1 ? first! : Buffer.concat(this.#pieces)
    this.#pieces = all.length > count ? [all.subarray(count)] : []
    return all.subarray(0, count)
  }
}
