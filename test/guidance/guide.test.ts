/** Schemas and the texts that they let through, without a model; one process for all. */
import './hostile.js'
import './language.js'
import './masks.js'
import './memory.js'
import './patterns.js'
