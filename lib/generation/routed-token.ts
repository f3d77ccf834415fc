import type { TokenItem } from './items.js'
import type { RoutingCapture, SequenceRoutes } from './routing.js'

/**
 * A token with the routes of the positions computed for it, which are copied when they are first looked at: of a small model a token takes
 * as long as a hundred copies, and most are looked at after the generation or never. `routing` is a property of its own, so that a copy
 * of the token by spread, JSON or structuredClone has it.
 */
export class RoutedToken implements TokenItem {
  text = ''
  readonly token: number
  declare readonly routing: RoutingCapture
  readonly #routes: SequenceRoutes
  readonly #from: number
  readonly #count: number
  #routing: RoutingCapture | undefined

  constructor(token: number, routes: SequenceRoutes, from: number, count: number) {
    this.token = token
    this.#routes = routes
    this.#from = from
    this.#count = count
    Object.defineProperty(this, 'routing', RoutedToken.#property)
  }

  /** One getter for all tokens: with a closure for each, V8 would keep them as dictionaries. */
  static readonly #property: PropertyDescriptor = {
    enumerable: true,
    get(this: RoutedToken) {
      this.#routing ??= this.#routes.read(this.#from, this.#count)
      return this.#routing
    }
  }
}
