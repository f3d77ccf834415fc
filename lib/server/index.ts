/**
 * `tiered-moe/server`: an engine over HTTP, as OpenAI's API has it.
 *
 *     const engine = await createEngine()
 *     await engine.loadModel()
 *     const server = await createServer(engine, { port: 8080 })
 *     await server.listen()
 */
import '../errors/diagnostics.js'

export type { LiveState } from '../live-page/state.js'
export type { ErrorBody } from './errors.js'
export type { Listening } from './listen.js'
export type { Server, ServerHooks, ServerOptions, ServerStats } from './server.js'
export { createServer } from './server.js'
export type {
  AdmissionSettings,
  ClientSettings,
  KeySettings,
  LimitSettings,
  QuotaSettings,
  ServerDeadlines,
  ServerSettings
} from './settings.js'
