// Prints the addon's C++ sources, one a line: the list that binding.gyp reads. CMakeLists.txt reads the same file.
const { readFileSync } = require('node:fs')
const { join } = require('node:path')

const list = readFileSync(join(__dirname, '..', 'csrc', 'sources.txt'), 'utf8')
console.log(list.split('\n').filter(Boolean).join('\n'))
