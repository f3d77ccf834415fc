/** What the status words of dispatch and combine mean. */
import { createError } from '../../../errors/index.js'
import type { DeviceArray } from '../../../kernels/device-arrays.js'
import { refused } from './arguments.js'
import { type KernelCall, unset } from './call.js'

/** Throws ROUTING_INVALID_EXPERT {token, slot, expertId} and, for combine, VALIDATION_ERROR where a row does not exist. */
export const checkChosen =
  (
    call: KernelCall,
    given: Int32Array | DeviceArray<'i32'>,
    ids: GPUBufferBinding,
    { k, experts }: { k: number; experts: number }
  ) =>
  async (words: Uint32Array): Promise<void> => {
    const [, bad = unset, row = unset] = words
    if (bad !== unset) {
      const offset = (ids.offset ?? 0) + bad * 4
      const expertId = ArrayBuffer.isView(given)
        ? given[bad]!
        : new Int32Array(await call.device.read({ buffer: ids.buffer, offset, size: 4 }))[0]!
      const [token, slot] = [Math.floor(bad / k), bad % k]
      const why = expertId < 0 || expertId >= experts ? 'which does not exist' : 'which it has chosen already'
      const text = `${call.op}: token ${token}, slot ${slot} names expert ${expertId}, ${why}`
      throw createError('ROUTING_INVALID_EXPERT', text, { token, slot, expertId })
    }
    if (row !== unset) throw refused('rows', 'rows from dispatch', `one out of range at slot ${row}`)
  }
