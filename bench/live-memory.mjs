// Loaded into a server by bench/overload.mjs (node --expose-gc --import): upon each message over its channel it collects what is garbage, and answers
// with the bytes that are left: {heap: of V8, external: buffers that V8 knows of, native: live bytes of the addon, resident}.
import { native } from '../dist/esm/native.js'

process.on('message', () => {
  globalThis.gc()
  const { heapUsed, external, rss } = process.memoryUsage()
  process.send({ heap: heapUsed, external, native: native().counters().liveBytes, resident: rss })
})
// A server that has nothing to do ends all the same.
process.channel.unref()
