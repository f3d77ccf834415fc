// What a soak does to an engine: requests of every kind at once, ended and aborted at random, while TierSets, pins and models change.
import { setTimeout as sleep } from 'node:timers/promises'

/** Ends of a request that the load itself brings about. */
const expected = new Set(['CANCELLED', 'RESOURCE_MEMORY_EXHAUSTED', 'RESOURCE_BUDGET_TOO_SMALL', 'ENGINE_FROZEN'])

export class Work {
  counts = {
    finished: 0,
    left: 0,
    tokens: 0,
    cached: 0,
    forwards: 0,
    activations: 0,
    pins: 0,
    freezes: 0,
    loads: 0,
    ballasts: 0
  }
  /** By code. */
  failed = {}
  /** What no load explains. */
  problems = []
  /** Bytes that the model which comes and goes may take now, and the most since somebody set this to that. */
  guestBytes = 0
  guestMost = 0

  /** `models`: [{id, vocab, tiers}]; `guest`: a load request, with its memory in bytes; `size`: the longest prompt and text; `press(bytes)`. */
  constructor(engine, { models, guest, size, random, press }) {
    Object.assign(this, { engine, models, guest, size, random, press })
  }

  /** Runs until the moment `end` (performance.now). */
  async run(workers, end) {
    const all = Array.from({ length: workers }, () => this.#until(end, () => this.#request()))
    await Promise.all([...all, this.#until(end, () => this.#change()), this.#until(end, () => this.#visit())])
  }

  async #until(end, act) {
    while (performance.now() < end) await this.#expect(act)
  }

  async #expect(act) {
    try {
      await act()
    } catch (error) {
      const code = error.code ?? error.message
      this.failed[code] = (this.failed[code] ?? 0) + 1
      if (!expected.has(code) && this.problems.length < 20) this.problems.push(`${code}: ${error.message}`)
      // As a client that was refused: what is to end the refusal must have its turn.
      await sleep(5)
    }
  }

  #below = (n) => Math.floor(this.random() * n)
  #one = (list) => list[this.#below(list.length)]

  #tierSet({ tiers }) {
    const some = tiers.filter(() => this.random() < 0.5)
    return this.#one([undefined, 'fast', 'balanced', 'deep', 'max', tiers[0], some.includes(tiers[0]) ? some : 'max'])
  }

  #prompt({ vocab }) {
    // Most are short, some fill many steps.
    const length = 1 + this.#below(this.random() < 0.8 ? this.size.prompt / 8 : this.size.prompt)
    // Half begin as others do, for which the prefix cache has pages.
    const common = this.random() < 1 / 2 ? this.size.common : 0
    return Int32Array.from({ length: common + length }, (_, i) => (i < common ? (i * 7) % vocab : this.#below(vocab)))
  }

  async #request() {
    const model = this.#one(this.models)
    const tokens = this.#prompt(model)
    const controller = new AbortController()
    const aborted = this.random() < 0.25
    const timer = aborted && setTimeout(() => controller.abort(), this.#below(this.size.abortMs))
    const { signal } = controller
    const tierSet = this.#tierSet(model)
    const chosen = tierSet === undefined && this.random() < 0.2 ? { latencyBudgetMs: 1 + this.#below(60) } : { tierSet }
    try {
      if (this.random() < 0.15) {
        const captureRouting = this.random() < 0.3
        const short = tokens.subarray(0, 40)
        const logits = this.#one(['last', 'all'])
        await this.engine.forward({ model: model.id, tokens: short, logits, tierSet, captureRouting }, { signal })
        this.counts.forwards++
        return
      }
      const request = {
        model: model.id,
        promptTokens: tokens,
        maxTokens: 1 + this.#below(this.size.text),
        temperature: 1,
        seed: this.#below(1e6),
        ignoreEos: true,
        captureRouting: this.random() < 0.1,
        ...chosen
      }
      const leaves = this.random() < 0.15 ? this.#below(20) : Number.POSITIVE_INFINITY
      let seen = 0
      for await (const item of this.engine.createGenerator(request, { signal })) {
        if (item.finishReason === undefined) this.counts.tokens++
        else this.counts.cached += item.usage.cachedTokens
        if (seen++ >= leaves) break
      }
      seen > leaves ? this.counts.left++ : this.counts.finished++
    } finally {
      clearTimeout(timer)
    }
  }

  /** Something of the operator's. */
  async #change() {
    await sleep(20 + this.#below(300))
    const model = this.#one(this.models)
    const kind = this.random()
    if (kind < 0.5) {
      await this.engine.activateTierSet(model.id, this.#tierSet(model) ?? 'max')
      this.counts.activations++
    } else if (kind < 0.8) {
      const experts = Array.from({ length: 1 + this.#below(4) }, () => ({
        layer: this.#below(model.layers),
        expert: this.#below(model.experts)
      }))
      await this.engine.pinExperts(model.id, experts, this.random() < 0.6)
      this.counts.pins++
    } else if (kind < 0.86) {
      await this.engine.freeze({ drainMs: this.#below(200) })
      this.counts.freezes++
      await sleep(this.#below(50))
      await this.engine.thaw()
    } else if (this.press && kind > 0.93) {
      await this.press()
      this.counts.ballasts++
    }
  }

  /** A model that comes and goes; some of its loads are aborted. */
  async #visit() {
    const { memory, ...request } = this.guest
    const cachePolicy = this.#one(['lru', 'lfu', 'adaptive'])
    const aborted = this.random() < 0.3
    const signal = aborted ? AbortSignal.timeout(this.#below(30)) : undefined
    this.guestBytes = this.guestMost = memory
    try {
      const { id, descriptor } = await this.engine.loadModel(
        { ...request, memory, cachePolicy, id: 'guest' },
        { signal }
      )
      this.counts.loads++
      const promptTokens = this.#prompt({ vocab: descriptor.vocab })
      const maxTokens = 1 + this.#below(this.size.text)
      const text = this.engine.generate({ model: id, promptTokens, maxTokens, ignoreEos: true })
      // Unloaded under its request now and then.
      if (this.random() < 0.3) await Promise.race([text.catch(() => {}), sleep(this.#below(50))])
      else await this.#expect(() => text)
      text.catch(() => {})
      await this.engine.unloadModel(id)
    } finally {
      this.guestBytes = 0
    }
    await sleep(this.#below(500))
  }
}
