/** What is read back from a GPU: through how much memory, and how long it is waited for. */
import t from 'tap'
import { GpuDevice } from '../../lib/backends/webgpu/device.js'
import { Outcome } from '../../lib/backends/webgpu/model/outcome.js'
import { onNode } from '../../lib/backends/webgpu/node-provider.js'
import { openGpu } from './adapter.js'

if (await openGpu(t)) {
  const device = await GpuDevice.open(onNode)
  t.teardown(() => device.dispose())
  const { memory } = device

  t.test('outcomes of steps of any size', async (test) => {
    const vocab = 64
    const from = await memory.allocate(64 * vocab * 4, 'a test')
    const outcome = new Outcome(32 * vocab * 4)
    const read = async (rows: number) => {
      outcome.plan({ status: 0, ids: 0, weights: 0, logits: rows * vocab * 4 })
      device.submit((commands) => {
        outcome.begin(commands)
        outcome.gatherLogits(commands, from, 0, rows, vocab)
      })
      await outcome.read()
    }
    for (const rows of [1, 3, 9, 17, 32, 5]) {
      device.write(from, 0, new Float32Array(rows * vocab).fill(rows))
      await read(rows)
      test.ok(outcome.logits(0, rows, vocab).every((value) => value === rows))
      test.notOk(outcome.isLarger)
    }
    test.equal(memory.buffers, 2, 'one is enough for all of them')
    await read(33)
    test.ok(outcome.isLarger, 'beyond what was planned')
    memory.free(from)
    memory.trim()
    test.equal(memory.usedBytes, 0)
  })

  t.test('several waits at a time', async (test) => {
    const buffer = await memory.allocate(16, 'a test')
    await device.read({ buffer })
    const [began, before] = [performance.now(), device.waitedMs]
    // Reads that end one after another, and some that begin while others are waited for.
    const reads = Array.from({ length: 50 }, () => device.read({ buffer }))
    await Promise.all([...reads, device.read({ buffer }).then(() => device.finished())])
    const [passed, waited] = [performance.now() - began, device.waitedMs - before]
    test.ok(waited > 0 && waited <= passed, `${waited} ms of the ${passed} that passed`)
    memory.free(buffer)
  })
}
