/** CRC-32 as in zlib and PNG (reflected, polynomial 0xEDB88320). Node's own is not in every Node 20. */
const table = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1
  return crc
})

/** The checksum of `bytes`; `start` is that of what came before them. */
export function crc32(bytes: Uint8Array, start = 0): number {
  let crc = ~start
  for (let i = 0; i < bytes.length; i++) crc = table[(crc ^ bytes[i]!) & 255]! ^ (crc >>> 8)
  return ~crc >>> 0
}
