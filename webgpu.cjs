'use strict'
// Loads the optional package `webgpu` (an ES module, so `import` from CommonJS too) and keeps the one GPU object of the process: adapters and
// devices need it for as long as they live, whoever opened them. It does not keep the process from ending.
let gpu

module.exports = {
  async open() {
    if (gpu) return gpu
    const { create } = await import('webgpu')
    gpu ??= create([])
    return gpu
  }
}
