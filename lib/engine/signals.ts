/** SIGINT and SIGTERM for those who ask for it: the first drains and ends the process with 0, the second ends it at once. */

/** What is drained. */
export interface Drainable {
  /** Ends the work; called once. */
  drain(signal: NodeJS.Signals): Promise<void>
}

/** As a shell has it: 128 and the signal's number. */
const forcedExitCodes = { SIGINT: 130, SIGTERM: 143 } as const
type HandledSignal = keyof typeof forcedExitCodes

/** Of all engines of this process that asked: the process ends when every one has drained. */
const drainables = new Set<Drainable>()
let received = false

function onSignal(signal: HandledSignal): void {
  if (received) process.exit(forcedExitCodes[signal])
  received = true
  void drainAll(signal)
}

async function drainAll(signal: HandledSignal): Promise<void> {
  const results = await Promise.allSettled([...drainables].map((drainable) => drainable.drain(signal)))
  // Whoever waits for the last tokens has this turn of the event loop to take them.
  const code = results.some(({ status }) => status === 'rejected') ? 1 : 0
  setImmediate(() => process.exit(code))
}

const listeners = (Object.keys(forcedExitCodes) as HandledSignal[]).map((signal) => {
  const listener = (): void => onSignal(signal)
  return { signal, listener }
})

/** Begins to listen. Returns what ends it; the last one takes the listeners away, but not once a signal has come. */
export function handleSignals(drainable: Drainable): () => void {
  if (drainables.size === 0 && !received) for (const { signal, listener } of listeners) process.on(signal, listener)
  drainables.add(drainable)
  return () => {
    drainables.delete(drainable)
    if (drainables.size > 0 || received) return
    for (const { signal, listener } of listeners) process.removeListener(signal, listener)
  }
}
