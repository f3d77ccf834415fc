/** What the pieces of one engine in other processes share. */
import type { CheckedOptions } from '../engine/options.js'
import type { Recovered } from '../journal/index.js'
import type { Telemetry } from '../telemetry/telemetry.js'
import type { History } from './history.js'
import type { KeepAlive } from './keep-alive.js'
import type { Pool } from './pool.js'
import type { RemoteCalls } from './remote-calls.js'
import type { RemoteState } from './remote-state.js'
import type { RemoteRequests } from './requests.js'
import type { Worker } from './supervisor.js'
import type { TempFolder } from './temp-folders.js'

export interface RemoteParts {
  options: CheckedOptions
  telemetry: Telemetry
  pool: Pool
  calls: RemoteCalls
  requests: RemoteRequests
  state: RemoteState
  history: History
  recovered: Recovered
  /** With a journal: which worker has a request. */
  owners: Map<string, Worker> | undefined
  folder: TempFolder | undefined
  keepAlive: KeepAlive
}
