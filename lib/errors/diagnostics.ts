/** Every error that is made, on Node's diagnostics channel. Apart from the others, and imported by what is for Node alone. */
import { channel } from 'node:diagnostics_channel'
import { onErrorMade } from './engine-error.js'

const errors = channel('tiered-moe:error')

onErrorMade((error) => {
  if (errors.hasSubscribers) errors.publish({ code: error.code, error })
})
