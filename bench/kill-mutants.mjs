// Damages to a journal and a checkpoint that the kill test has to notice. Each returns whether it found what it damages.
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

const acceptedOf = ({ journal, owed }) =>
  placesIn(journal).filter(({ record }) => record.type === 'accepted' && owed.has(record.id))

/** The owed request that has most before it. */
function unfinishedOf(campaign) {
  const ended = placesIn(campaign.journal).filter(({ record }) => record.type === 'finished')
  const ids = new Set(ended.map(({ record }) => record.id))
  return acceptedOf(campaign).findLast(({ record }) => !ids.has(record.id))
}

export const mutants = {
  'an accepted request is dropped': (campaign) => {
    const place = acceptedOf(campaign)[0]
    if (place) replace(place, undefined)
    return place !== undefined
  },
  'the journal ends before an accepted request, as without fsync': (campaign) => {
    const place = acceptedOf(campaign).at(-1)
    const last = placesIn(campaign.journal).at(-1)
    if (!place || place.path !== last.path) return false
    truncateSync(place.path, place.offset)
    return true
  },
  'a produced token is another one': ({ journal, owed }) => {
    const place = placesIn(journal).find(
      ({ record }) => record.type === 'tokens' && owed.has(record.id) && record.tokens.length > 0
    )
    if (!place) return false
    const tokens = [...place.record.tokens]
    tokens[0] = (tokens[0] + 1) % 256
    replace(place, { ...place.record, tokens })
    return true
  },
  'a bit of a record is flipped': ({ journal }) => {
    const place = placesIn(journal).at(-3)
    if (!place) return false
    const all = readFileSync(place.path)
    all[place.offset + 20] ^= 4
    writeFileSync(place.path, all)
    return true
  },
  'a request has another TierSet': (campaign) => {
    const place = unfinishedOf(campaign)
    if (!place) return false
    const { record } = place
    const tierSet = record.request.tierSet.join() === 'usual' ? ['core'] : ['usual']
    replace(place, { ...record, request: { ...record.request, tierSet } })
    return true
  },
  'a request has other versions of experts': (campaign) => {
    const changes = placesIn(campaign.journal).filter(({ record }) => record.type === 'experts')
    const newest = Math.max(0, ...changes.map(({ record }) => record.epoch))
    const place = unfinishedOf(campaign)
    if (!place || newest === 0) return false
    replace(place, { ...place.record, epoch: place.record.epoch === 0 ? newest : 0 })
    return true
  },
  'a bit of a persisted expert is flipped': ({ checkpoint, swaps }) => {
    if (swaps.persisted === 0) return false
    const { shards } = JSON.parse(readFileSync(join(checkpoint, 'manifest.json'), 'utf8'))
    const path = join(checkpoint, shards.find((shard) => shard.path.startsWith('versions/')).path)
    const all = readFileSync(path)
    all[1000] ^= 4
    writeFileSync(path, all)
    return true
  },
  'the manifest is the one from before all swaps': ({ checkpoint, swaps }, firstManifest) => {
    if (swaps.persisted === 0) return false
    writeFileSync(join(checkpoint, 'manifest.json'), firstManifest)
    return true
  }
}
