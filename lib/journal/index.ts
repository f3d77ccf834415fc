/** The journal: what survives the end of the process. A leaf; the engine decides what it writes into it. */
export type { EarlierLoad, JournalSettings, ProducedToken } from './journal.js'
export { Journal } from './journal.js'
export type { DamagedBytes } from './reader.js'
export type { ModelIdentity, ModelRecord } from './records.js'
export type { Recovered, RecoveredModel, RecoveredRequest } from './recovered.js'
export type { JournaledRequest } from './state.js'
