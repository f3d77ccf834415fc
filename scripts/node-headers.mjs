/** The prefix under which this Node has its own headers, which spares their download; undefined where it came without. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

const prefix = join(process.execPath, '..', '..')
export const headersPrefix = existsSync(join(prefix, 'include', 'node', 'node_api.h')) ? prefix : undefined
