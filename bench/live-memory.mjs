// Loaded into a server by bench/overload.mjs (node --expose-gc --import): upon each message over its channel it collects what is garbage, as often as
// the message says, and answers with the bytes that are left: {heap: of V8, external: buffers that V8 knows of, native: live bytes of the addon,
// resident}, and its open sockets.
import { setTimeout as sleep } from 'node:timers/promises'
import { native } from '../dist/esm/native.js'

process.on('message', async ({ collections }) => {
  for (let i = 0; i < collections; i++) {
    // What a finalizer gives back is garbage of the next one.
    if (i > 0) await sleep(20)
    globalThis.gc()
  }
  const { heapUsed, external, rss } = process.memoryUsage()
  const sockets = process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length
  process.send({ heap: heapUsed, external, native: native().counters().liveBytes, resident: rss, sockets })
})
// A server that has nothing to do ends all the same.
process.channel.unref()
