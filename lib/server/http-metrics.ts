/** What a server counts beside what its engine does. Labels are of few values: a route, a status, a reason, a key's id. */
import type { AdmissionStats } from '../resilience/index.js'
import { Metrics } from '../telemetry/metrics.js'

const seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 300]

export class HttpMetrics extends Metrics {
  readonly requests = this.counter('tiered_moe_http_requests_total', 'HTTP requests, by route, method and status.')
  readonly requestTime = this.histogram('tiered_moe_http_request_seconds', 'From head to end of reply.', seconds)
  readonly clientErrors = this.counter('tiered_moe_http_client_errors_total', 'Connections ended for a bad client.')
  readonly dropped = this.counter('tiered_moe_http_connections_dropped_total', 'Connections beyond the limit.')
  readonly keyTokens = this.counter('tiered_moe_http_key_tokens_total', 'Tokens of prompts and texts, by key.')
  readonly queueTime = this.histogram('tiered_moe_http_queue_seconds', 'What admitted requests had waited.', seconds)
  readonly refused = this.counter('tiered_moe_http_refused_total', 'Requests refused or cut short, by reason.')
  readonly #connections = this.gauge('tiered_moe_http_connections', 'Connections that are open.')
  readonly #running = this.gauge('tiered_moe_http_running', 'Requests that run.')
  readonly #queued = this.gauge('tiered_moe_http_queued', 'Requests that wait for their turn.')
  readonly #rate = this.gauge('tiered_moe_http_tokens_per_second', 'Tokens a second while requests run.')

  /** What is kept elsewhere, for each reading. */
  follow(read: () => { connections: number; admission: AdmissionStats; rate: number | undefined }): void {
    this.addSource(() => {
      const { connections, admission, rate } = read()
      this.#connections.set(connections)
      this.#running.set(admission.running)
      this.#queued.set(admission.queued)
      this.#rate.set(rate ?? 0)
    })
  }
}
