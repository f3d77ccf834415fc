/** Failures of what keeps bytes: files, disks, the journal and the archive. */
import type { CatalogEntry } from './entry.js'
import { operators, request } from './entry.js'

export const storage = {
  FILE_READ_FAILED: {
    ...operators,
    meaning: 'The system could not read a file.',
    category: 'resource',
    scope: 'model',
    retry: 'backoff',
    details: ['path'],
    suggestedAction: 'Check permissions and the disk; details.errno has the reason of the system.',
    native: true
  },
  FILE_WRITE_FAILED: {
    ...operators,
    meaning: 'The system could not write a file; nothing half-written is left.',
    category: 'resource',
    retry: 'backoff',
    details: ['path', 'errno'],
    suggestedAction: 'Check permissions and free space; details.errno has the reason of the system.',
    native: true
  },
  RESOURCE_DISK_EXHAUSTED: {
    ...operators,
    meaning: 'A disk has no room for what is to be written; nothing half-written is left.',
    category: 'resource',
    retry: 'backoff',
    httpStatus: 503,
    details: ['path', 'resourceInfo'],
    suggestedAction: 'Free space on the disk (details.resourceInfo has the bytes), or write to another one.',
    native: false
  },
  COLD_FOLDER_LOCKED: {
    ...operators,
    meaning: 'Another process has the cold folder of an archive: two could not keep its limit together.',
    category: 'configuration',
    scope: 'model',
    details: ['path'],
    suggestedAction:
      'Give this process a cold folder of its own (archive.coldFolder), or stop the other one (details.pid). A lock whose process died holds nobody.',
    native: false
  },
  JOURNAL_LOCKED: {
    ...operators,
    meaning: 'Another engine, of this process or another one, has the journal open.',
    category: 'configuration',
    scope: 'engine',
    details: ['path'],
    suggestedAction:
      'Stop the other engine (details.pid), or give this one a journal folder of its own. A lock whose process died holds nobody.',
    native: false
  },
  JOURNAL_CORRUPTED: {
    ...operators,
    meaning: 'The journal is damaged in a way that no crash leaves: bytes before its last record cannot be read.',
    category: 'resource',
    severity: 'fatal',
    scope: 'engine',
    details: ['path', 'damage'],
    suggestedAction:
      "Put the file back from a copy, or open the journal with onDamage: 'salvage' to keep what can be read; details.damage says what cannot.",
    native: false
  },
  JOURNAL_VERSION_UNSUPPORTED: {
    ...operators,
    meaning: 'The journal was written by a later version, in a format that this one does not know.',
    category: 'configuration',
    scope: 'engine',
    details: ['path', 'actual', 'supported'],
    suggestedAction: 'Use the version that wrote it until its requests are done, or another folder.',
    native: false
  },
  JOURNAL_WRITE_FAILED: {
    ...operators,
    meaning: 'The journal could not take a request, so it was not accepted. Those that run go on.',
    category: 'resource',
    retry: 'backoff',
    httpStatus: 503,
    details: ['path', 'errno', 'resourceInfo'],
    suggestedAction:
      'Free space where the journal is (details.resourceInfo has the bytes); the next request tries again.',
    native: false
  },
  NETWORK_PARTITION: {
    ...request,
    meaning:
      'A server (an archive, a download) could not be reached, or did not answer to the end, in any of the attempts.',
    category: 'resource',
    retry: 'backoff',
    logLevel: 'error',
    operator: true,
    httpStatus: 502,
    exitCode: 255,
    engineCode: 'TransportError',
    details: ['target', 'reason', 'retryCount'],
    suggestedAction: 'Check the network and the server named by details.target; details.reason has what happened last.',
    native: false
  },
  ARCHIVE_REFUSED: {
    ...request,
    meaning:
      'A server (an archive, a download) answered, but will not give the bytes: not found, not allowed, or another file than was described.',
    category: 'resource',
    logLevel: 'error',
    operator: true,
    httpStatus: 502,
    exitCode: 255,
    engineCode: 'TransportError',
    details: ['target', 'reason'],
    suggestedAction:
      'Check the address, the files there and the credentials in the headers; details.reason has what it answered.',
    native: false
  },
  CIRCUIT_BREAKER_OPEN: {
    ...request,
    meaning: 'What is behind has failed several times in a row; it is left alone for a while.',
    category: 'resource',
    retry: 'after',
    logLevel: 'error',
    httpStatus: 503,
    exitCode: 255,
    engineCode: 'ServerError',
    details: ['circuit', 'state', 'failureCount', 'failureThreshold', 'cooldownSeconds', 'retryAfterSeconds'],
    suggestedAction: 'Try again after details.retryAfterSeconds; repair what details.circuit names.',
    native: false
  }
} as const satisfies Record<string, CatalogEntry>
