// Damages to a journal that the kill test has to notice. Each returns whether it found what it damages.
import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { encodeRecord, scanRecords } from '../dist/esm/journal/frame.js'

/** The records of every segment, with their places. */
function placesIn(folder) {
  const places = []
  for (const name of readdirSync(folder)
    .filter((name) => name.endsWith('.journal'))
    .sort()) {
    const path = join(folder, name)
    let offset = 0
    for (const { record, bytes } of scanRecords(readFileSync(path)).records) {
      places.push({ path, offset, bytes, record })
      offset += bytes
    }
  }
  return places
}

/** Writes a segment again with one record replaced (by nothing, where `record` is undefined). */
function replace({ path, offset, bytes }, record) {
  const all = readFileSync(path)
  const parts = [all.subarray(0, offset), ...(record ? [encodeRecord(record)] : []), all.subarray(offset + bytes)]
  writeFileSync(path, Buffer.concat(parts))
}

const acceptedOf = (folder, owed) =>
  placesIn(folder).filter(({ record }) => record.type === 'accepted' && owed.has(record.id))

export const mutants = {
  'an accepted request is dropped': (folder, owed) => {
    const place = acceptedOf(folder, owed)[0]
    if (place) replace(place, undefined)
    return place !== undefined
  },
  'the journal ends before an accepted request, as without fsync': (folder, owed) => {
    const place = acceptedOf(folder, owed).at(-1)
    const last = placesIn(folder).at(-1)
    if (!place || place.path !== last.path) return false
    truncateSync(place.path, place.offset)
    return true
  },
  'a produced token is another one': (folder, owed) => {
    const place = placesIn(folder).find(
      ({ record }) => record.type === 'tokens' && owed.has(record.id) && record.tokens.length > 0
    )
    if (!place) return false
    const tokens = [...place.record.tokens]
    tokens[0] = (tokens[0] + 1) % 256
    replace(place, { ...place.record, tokens })
    return true
  },
  'a bit of a record is flipped': (folder) => {
    const place = placesIn(folder).at(-3)
    if (!place) return false
    const all = readFileSync(place.path)
    all[place.offset + 20] ^= 4
    writeFileSync(place.path, all)
    return true
  }
}
