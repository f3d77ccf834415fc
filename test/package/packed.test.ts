// What users install: the packed package has what it needs and nothing that builds, and loads both ways.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

const root = fileURLToPath(new URL('../..', import.meta.url))
const addon = process.env.TIERED_MOE_ADDON ?? join(root, 'build', 'Release', 'tiered_moe.node')
const npm = (args: string[], cwd: string) =>
  execFileSync('npm', args, { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

interface Packed {
  filename: string
  files: { path: string }[]
}

t.test('contents', async (t) => {
  const folder = t.testdir()
  const [packed] = JSON.parse(
    npm(['pack', '--json', '--ignore-scripts', '--pack-destination', folder], root)
  ) as Packed[]
  t.ok(packed)
  if (!packed) return
  const paths = packed.files.map(({ path }) => path)
  const needed = [
    'package.json',
    'README.md',
    'LICENSE',
    'CHANGELOG.md',
    'addon.cjs',
    'addon.d.cts',
    'dist/esm/index.js',
    'dist/esm/index.d.ts',
    'dist/esm/kernels.js',
    'dist/esm/cli/main.js',
    'dist/cjs/index.js',
    'dist/cjs/index.d.ts',
    'dist/cjs/kernels.js',
    'dist/cjs/package.json',
    'dist/esm/resilience/index.js',
    'dist/esm/resilience/index.d.ts',
    'dist/cjs/resilience/index.js',
    'dist/cjs/resilience/index.d.ts',
    'dist/esm/server/index.js',
    'dist/cjs/server/index.js',
    'dist/esm/webgpu.js',
    'dist/esm/webgpu.d.ts',
    'dist/esm/backends/webgpu/shader-texts.js',
    'dist/cjs/webgpu.js',
    'models/tiny-shakespeare-moe-q8_0.gguf',
    'models/README.md'
  ]
  for (const path of needed) t.ok(paths.includes(path), path)
  const building = paths.filter((path) =>
    /binding\.gyp|CMakeLists|^csrc\/|^scripts\/|^test\/|^bench\/|^build|\.node$/.test(path)
  )
  t.same(building, [], 'nothing that would start a build')

  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
    gypfile: boolean
    scripts: Record<string, string>
    exports: Record<string, unknown>
    engines: { node: string }
  }
  t.equal(manifest.gypfile, false)
  for (const script of ['preinstall', 'install', 'postinstall'])
    t.notOk(manifest.scripts[script], `no ${script} script`)
  t.same(Object.keys(manifest.exports), ['.', './kernels', './resilience', './server', './webgpu', './package.json'])

  const skip = existsSync(addon) ? false : 'the addon is not built'
  await t.test('import and require from an installed copy', { skip }, async (t) => {
    const user = join(folder, 'user')
    const installed = join(user, 'node_modules', 'tiered-moe')
    mkdirSync(installed, { recursive: true })
    // A package of its own: inside of ours `tiered-moe` would be the checkout.
    writeFileSync(join(user, 'package.json'), '{ "name": "user" }')
    execFileSync('tar', ['-xzf', join(folder, packed.filename), '--strip-components=1', '-C', installed])
    for (const name of ['@huggingface', 'commander', 'yaml', 'zod']) {
      symlinkSync(join(root, 'node_modules', name), join(user, 'node_modules', name))
    }
    // The folders above have the package, as a user need not.
    mkdirSync(join(user, 'node_modules', 'webgpu'))
    writeFileSync(join(user, 'node_modules', 'webgpu', 'package.json'), '{ "name": "webgpu", "main": "absent.js" }')
    const program = `
      const engine = await createEngine({ threads: 1 })
      const { id } = await engine.loadModel({})
      const { text } = await engine.generate({ model: id, prompt: 'ROMEO:', maxTokens: 8, temperature: 0 })
      await engine.dispose()
      const webgpu = await openBackend('webgpu').catch((error) => error.code)
      const retried = await retryWithBackoff((attempt) => attempt, profiles.rpc.retry)
      console.log(JSON.stringify([id, text, typeof openBackend, webgpu, retried]))`
    writeFileSync(
      join(user, 'user.mjs'),
      `import { createEngine } from 'tiered-moe'\nimport { openBackend } from 'tiered-moe/kernels'\nimport { profiles, retryWithBackoff } from 'tiered-moe/resilience'\n${program}`
    )
    writeFileSync(
      join(user, 'user.cjs'),
      `const { createEngine } = require('tiered-moe')\nconst { openBackend } = require('tiered-moe/kernels')\nconst { profiles, retryWithBackoff } = require('tiered-moe/resilience')\n;(async () => {${program}})()`
    )
    const env = { ...process.env, TIERED_MOE_ADDON: addon, NODE_OPTIONS: '' }
    const run = (file: string) => execFileSync(process.execPath, [file], { cwd: user, encoding: 'utf8', env }).trim()
    const results = JSON.parse(run('user.mjs')) as [string, string, string, string, number]
    const [id, text, kernels, webgpu, retried] = results
    t.ok(id)
    t.ok(text.length > 0)
    t.equal(kernels, 'function')
    t.equal(webgpu, 'BACKEND_UNAVAILABLE', 'the package webgpu is not installed')
    t.equal(retried, 1)
    t.equal(run('user.cjs'), JSON.stringify(results), 'CommonJS gives the same')
    const command = join(installed, 'dist', 'esm', 'cli', 'main.js')
    t.match(
      execFileSync(process.execPath, [command, '--version'], { cwd: user, encoding: 'utf8', env }),
      /^\d+\.\d+\.\d+/
    )
  })

  await t.test('without an addon the error says what was tried', async (t) => {
    const program = `import('${join(root, 'dist', 'esm', 'index.js')}').then(async ({ createEngine }) => {
      await createEngine({}).then(() => console.log('no error'), (e) => console.log(e.code, JSON.stringify(e.details.tried)))
    })`
    const env = { ...process.env, TIERED_MOE_ADDON: join(folder, 'absent.node'), NODE_OPTIONS: '' }
    const output = execFileSync(process.execPath, ['-e', program], { encoding: 'utf8', env })
    t.match(output, /^ADDON_UNAVAILABLE .*absent\.node/)
  })
})
