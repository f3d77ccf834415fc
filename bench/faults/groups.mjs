// The groups of faults, in the order of the table. A group: {name, title, begin(folder) -> what its rows share, end(shared), rows}.
// A row: {id, covers, inject, code (none: nothing may fail), at: where the code is to be seen, recovery, full, run(observation, shared)}.
export const groupNames = [
  'gpu',
  'model',
  'resources',
  'time',
  'network',
  'pull',
  'runtime',
  'workers',
  'guards',
  'shutdown',
  'capacity',
  'http',
  'settings',
  'storage'
]

export const loadGroup = async (name) => (await import(`./${name}.mjs`)).default

export const loadGroups = () => Promise.all(groupNames.map(loadGroup))
